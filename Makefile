PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/.ready
QUICKSTART := configs/simrec_small_scenes_quickstart.py
RUN := outputs/quickstart

LOWEST := .venv-lowest
NEWEST := .venv-newest
TORCH := torch==2.14.1 torchvision==0.29.1
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --no-annotate --custom-compile-command "make lock" --python-version 3.11

.PHONY: setup quickstart test style smoke web lock lowest-setup lowest newest gpu gpu-pack

setup: $(READY)

# Exactly what requirements.lock says: nothing is resolved, nothing else is fetched, not even to build the package.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

# Renders the shape scenes, trains a small SimREC, evaluates it on unseen scenes, draws a picture grid.
quickstart: $(READY)
	$(BIN)/python scripts/prepare_data.py --dataset scenes --output_dir outputs/scenes
	$(BIN)/accelerate launch --config_file accelerate_configs/one_device.yaml scripts/train.py $(QUICKSTART)
	$(BIN)/python scripts/evaluate.py $(RUN)/best --config $(QUICKSTART) --splits test --out $(RUN)/test --pictures $(RUN)/test/grid.png
	@echo
	@echo "data set         outputs/scenes"
	@echo "run folder       $(RUN)  (train.log, metrics.jsonl, checkpoints/)"
	@echo "model folder     $(RUN)/best"
	@echo "test metrics     $(RUN)/test/metrics.json, predictions.jsonl"
	@echo "picture grid     $(RUN)/test/grid.png"

# Files in turn on two processes: most of a test's time is waiting for a process it started.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two batches of everything, in under a minute.
smoke: $(READY)
	$(BIN)/python scripts/train.py $(QUICKSTART) train.fast_dev_run=true train.output_dir=outputs/smoke

# onnxruntime-web, which the tests of the exported web page need: without it they are skipped.
web:
	npm install --silent --no-save --no-package-lock --no-audit --no-fund --ignore-scripts \
	    onnxruntime-web@$(shell sed -n 's/^RUNTIME = "\(.*\)".*/\1/p' rec/inference/web.py)

# Writes both lock files anew: the newest versions that fit pyproject.toml, for every system, and the lowest ones, for
# the Python and the system they are tested on. torch is of the version above in both.
lock: $(READY)
	printf '%s\n' $(TORCH) | $(COMPILE) --universal --all-extras --output-file requirements.lock pyproject.toml -
	printf '%s\n' $(TORCH) | $(COMPILE) --python-platform x86_64-manylinux_2_28 --resolution lowest-direct \
	    --extra test --extra demo --extra export --extra plots --extra text --output-file requirements-lowest.lock pyproject.toml -

# The lowest versions that pyproject.toml admits, in an environment of their own. What both lock files have at the same
# version, torch above all, is linked from the first environment.
lowest-setup: $(LOWEST)/.ready

$(LOWEST)/.ready: $(READY) requirements-lowest.lock
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/python tests/link_packages.py requirements-lowest.lock $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --constraint requirements-lowest.lock setuptools
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --requirement requirements-lowest.lock
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lowest: lowest-setup
	$(LOWEST)/bin/python tests/run_versions.py --lock requirements-lowest.lock

# The same with the newest version of everything there is today. Gates nothing.
newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --editable ".[test,demo,export,plots,text]"
	$(NEWEST)/bin/python tests/run_versions.py

# A visit to a GPU (docs/gpu.md): every part, or one alone; what is done is not done again. DEVICE=cpu rehearses it, short.
# No environment is made: a machine with a GPU brings its own PyTorch.
OUT ?= outputs/gpu
DEVICE ?= cuda
GPU = $(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/visit.py --out $(OUT) --device $(DEVICE)
GPU_PARTS := gpu-tests gpu-benchmark gpu-quickstart gpu-photographs gpu-archive
.PHONY: $(GPU_PARTS)

gpu:
	$(GPU) all

$(GPU_PARTS): gpu-%:
	$(GPU) $*

# Photographs for it: make gpu-pack SOURCE=folder with train.jsonl, val.jsonl and images/.
gpu-pack:
	$(GPU) pack --source $(SOURCE)
