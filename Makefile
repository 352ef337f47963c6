PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test test-core test-slow test-long lint bench

help:
	@echo 'make setup   make .venv and install tfbig in it (PYTHON=python3.12 picks the interpreter)'
	@echo 'make train   train a classifier on handwritten digits'
	@echo 'make test    run the quick tests, about 8 minutes on two cores'
	@echo 'make test-slow   run those that take long; make test-long those that take longest'
	@echo 'make test-core   run those that show whether another TensorFlow or Keras can be used'
	@echo 'make lint    check style, formatting, types and imports'
	@echo 'make bench   compare the speed with Keras fit on one device'

setup: .venv/.installed

.venv/.installed: setup.cfg setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>&1) || found='no Python'; \
	  echo "error: tfbig needs Python 3.11, 3.12 or 3.13, but PYTHON=$(PYTHON) is $$found;" \
	    "write, for example, make PYTHON=python3.12" >&2; exit 1; }
	@echo 'Installing tfbig and TensorFlow in .venv; the first time takes a few minutes.'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: setup
	@$(BIN)/tfbig train --config=configs/digits_mlp.py --model_dir=runs/digits_mlp

test: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow'

# What depends most on TensorFlow and Keras: private names, the step, checkpoints, exports, TF1 layers.
CORE := tests/private_api tests/compat/test_layers.py tests/layers tests/serving \
  tests/training/test_checkpoints.py tests/training/test_compile_choice.py \
  tests/training/test_gradients.py tests/training/test_optimizers.py \
  tests/training/test_own_step.py
CORE_SLOW := tests/equivalence/test_numbers.py tests/training/test_resume.py

test-core: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow' $(CORE)
	@$(BIN)/python -m pytest -q -m 'not long' -k 'one_device1 or mirrored2 or resume' $(CORE_SLOW)
	@$(BIN)/tfbig train --config=digits_mlp --max_steps=300 --model_dir=runs/core

test-slow: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'slow and not long'

test-long: setup
	@$(BIN)/python -m pytest -q -m long

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: setup
	@$(BIN)/python benchmarks/one_device.py
