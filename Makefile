PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/.ready
QUICKSTART := configs/simrec_small_scenes_quickstart.py
RUN := outputs/quickstart

.PHONY: setup quickstart test style smoke

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --editable ".[test,style,demo,export]"
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

test: $(READY)
	$(BIN)/python -m pytest

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two batches of everything, in under a minute.
smoke: $(READY)
	$(BIN)/python scripts/train.py $(QUICKSTART) train.fast_dev_run=true train.output_dir=outputs/smoke
