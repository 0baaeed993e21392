# `make demo` and `make test` set up .venv by themselves.  PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

DEMO := demo
DEMO_OPTIONS := --n-samples 4 --nprocs 2

.PHONY: demo pictures test lint check readme clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/bids-lesion-xai-demo $(DEMO)/bids
	$(BIN)/python run.py $(DEMO)/bids $(DEMO)/output participant group \
		--work-dir $(DEMO)/work $(DEMO_OPTIONS)
	@echo
	@echo "Reports of the demo:"
	@ls -1 "$(CURDIR)/$(DEMO)/output/"*.html

# Tests of one file share what takes long to make, so they stay in one process, on one core.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# Writes the generated parts of README and of the model card anew.
readme: $(READY)
	$(BIN)/python -m tests.test_repository

# Draws the pictures of README anew; needs Chromium.
pictures: demo
	$(BIN)/python docs/pictures.py $(DEMO)/output docs

clean:
	rm -rf $(DEMO) .venv

# Rebuilt when the dependencies change; the package itself is installed in place (editable).
$(READY): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
		echo "Python 3.10 to 3.13 is needed: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test]'
	touch $@
