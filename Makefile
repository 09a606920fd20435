# make demo: install, then fit the bundled data set and say where the report is
# make test: install, then run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_TIME ?= 90s
DEMO_OUT ?= runs/demo
SARTOR_DATA ?= ../shared/data
export SARTOR_DATA

.PHONY: install demo test lint bench docs clean
.DEFAULT_GOAL := demo

install: $(VENV)/installed

# pip, not uv: only pip finds the CPU build of torch that constraints.txt pins
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm==1.0.31 torchvision==0.29.2
	touch $@

demo: install
	$(BIN)/sartor fit digits --budget "params<10k" --time $(DEMO_TIME) --out $(DEMO_OUT)

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks

docs: install
	$(BIN)/python -m sphinx -W --keep-going -q docs site

clean:
	rm -rf $(VENV) site runs
