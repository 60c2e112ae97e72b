# One command for each thing a person does with this repository. `make help` lists them.
# Everything runs in .venv, which is made on first use; pip's own settings (index, wheel folder, proxy) are honoured.

PYTHON  ?= python3
VENV    ?= .venv
OUT     ?= build/tiny
WORKERS ?= 2
CASES   ?= 10000
SEED    ?= 0
BIN     := $(VENV)/bin
# Byte-compiling all of PyTorch takes longer than installing it; Python compiles what it imports, when it does.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install -qq --no-compile -c constraints.txt

# Where Python is told to keep no bytecode, as in many containers, every start would compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo serve web test test-slow test-upstream test-versions fuzz kills lint format tiny bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15

demo: $(VENV)/.core  ## ask the embedded model a spoken question; it answers in text and in speech (reply.wav)
	@echo "Question: examples/question.wav. Its transcript:"
	@$(BIN)/ttt-hf talk examples/question.wav --task asr
	@echo "The answer:"
	@$(BIN)/ttt-hf talk examples/question.wav --out reply.wav --seed 0

serve: $(VENV)/.serve  ## serve the embedded model in OpenAI's API at http://127.0.0.1:8000/v1
	$(BIN)/ttt-hf serve embedded

web: $(VENV)/.serve  ## talk to the embedded model in the browser, at http://127.0.0.1:7860
	$(BIN)/ttt-hf demo embedded

test: $(VENV)/.dev  ## the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.dev  ## every test, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow or not slow"

test-upstream: $(VENV)/.dev  ## transformers' own tests of models and processors, fetched and run on ours
	$(BIN)/python tests/upstream/fetch.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rfEx tests/upstream/modeling_mixins.py tests/upstream/processing_mixins.py

test-versions: $(VENV)/.dev  ## the quick tests with the oldest and the newest transformers of the declared range
	WORKERS=$(WORKERS) .ci/versions

fuzz: $(VENV)/.dev  ## damaged input of all kinds, $(CASES) cases from SEED: refused in a sentence, never a traceback
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED) --workers $(WORKERS)
	$(BIN)/python -m tests.fuzz.serving --cases $(CASES) --seed $(SEED)

kills: $(VENV)/.dev  ## commands killed at random moments and run again: as if they had not been
	$(BIN)/python -m tests.kills --seed $(SEED)

lint: $(VENV)/.dev  ## style, types, and the rule that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tiny: $(VENV)/.all  ## rebuild the embedded checkpoint from nothing into $(OUT); continues where it stopped
	$(BIN)/python -m recipes.tiny --out $(OUT)

bench: $(VENV)/.dev $(VENV)/.all  ## speed and memory next to the plain official algorithms, on the same weights; the embedded model's scores
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/serving.py

clean:  ## remove what these commands made, the environment included
	rm -rf $(VENV) build dist reply.wav .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Each stamp is written only after its install succeeded, so an interrupted run is simply repeated.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ttt-hf (some minutes the first time) ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ttt-hf with its server (some minutes the first time) ..."
	@$(INSTALL) -e '.[serve]'
	@touch $@ $(VENV)/.core

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ttt-hf with its development tools (some minutes the first time) ..."
	@$(INSTALL) -e '.[dev,train,eval,audio,sound,pictures,completion,serve]'
	@touch $@ $(VENV)/.core $(VENV)/.serve

$(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing ttt-hf with what training and scoring need (some minutes the first time) ..."
	@$(INSTALL) -e '.[train,eval,audio,data]'
	@touch $@ $(VENV)/.core
