# Only Python (3.11 or newer) and make are needed; everything else goes into .venv, which belongs to make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test format clean environment environment-demo

help:
	@echo "make demo     train the small CNN, optimize it for this machine, write runs/demo/report.html"
	@echo "make test     format, lint, types, layers and tests, as CI runs them"
	@echo "make format   format the code and mend what the linter can"
	@echo "make clean    take away the environment and the caches"

demo: environment-demo
	$(BIN)/leanly demo $(ARGS)

test: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

format: environment
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

environment:
	@$(PYTHON) tools/environment.py test $(VENV)

environment-demo:
	@$(PYTHON) tools/environment.py demo $(VENV)

clean:
	rm -rf $(VENV) $(VENV).lock $(VENV).trash .pytest_cache .ruff_cache .import_linter_cache .hypothesis
