# Raymill. `make quickstart` and `make test` set everything up by themselves.
PLATFORM ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
READY := .venv/.ready-$(PLATFORM)
PYTEST := .venv/bin/python -m pytest

.PHONY: quickstart test test-fast test-faults test-contract lint format setup lock docs bench bench-data bench-training bench-serving clean help
.DEFAULT_GOAL := help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the pinned packages of this platform

$(READY): requirements/$(PLATFORM).txt pyproject.toml requirements/install.sh
	requirements/install.sh $(PLATFORM)
	@touch $@

quickstart: $(READY) ## the main job: from pages on this machine to answers over HTTP
	.venv/bin/raymill run examples/quickstart/recipe.yaml --address local

test: $(READY) ## every test but the long kill-and-recover runs
	$(PYTEST) -m "not faults"

test-fast: $(READY) ## tests that start no Ray, no trainer and no engine
	$(PYTEST) -m "not slow and not faults" -q

test-faults: $(READY) ## long kill-and-recover runs
	$(PYTEST) -m faults

test-contract: $(READY) ## some 2,000 made-up requests against what the door's OpenAPI document says
	RAYMILL_CONTRACT_EXAMPLES=230 $(PYTEST) tests/serving/test_contract.py

lint: $(READY) ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(READY) ## let ruff mend what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: $(READY) ## renew requirements/cpu.txt and gpu.txt from pyproject.toml
	requirements/lock.sh

docs: $(READY) ## render docs/settings.md and docs/formats.md from the code
	.venv/bin/python docs/render_settings.py
	.venv/bin/python docs/render_formats.py

bench-data: $(READY) ## measure the claims of the data engine (about 25 minutes on two idle cores)
	.venv/bin/python benchmarks/heuristics.py
	.venv/bin/python benchmarks/signatures.py
	.venv/bin/python benchmarks/language_id.py
	.venv/bin/python benchmarks/pipeline.py
	.venv/bin/python benchmarks/extraction.py
	.venv/bin/python benchmarks/dedup.py compare
	.venv/bin/python benchmarks/dedup.py scale
	.venv/bin/python benchmarks/render.py

bench-training: $(READY) ## measure the claims of training (about 25 minutes, on a machine with nothing else to do)
	.venv/bin/python benchmarks/training_speed.py
	.venv/bin/python benchmarks/training_sft.py
	.venv/bin/python benchmarks/training_loss_memory.py
	.venv/bin/python benchmarks/training_launch.py
	.venv/bin/python benchmarks/training_oracles.py
	.venv/bin/python benchmarks/shakespeare.py
	.venv/bin/python benchmarks/render.py

bench-serving: $(READY) ## measure the claims of serving (on a machine with nothing else to do)
	.venv/bin/python benchmarks/serving_noop.py
	.venv/bin/python benchmarks/serving_overload.py
	.venv/bin/python benchmarks/serving_door.py bare stock
	.venv/bin/python benchmarks/serving_start.py
	.venv/bin/python benchmarks/serving_formats.py speed
	.venv/bin/python benchmarks/serving_formats.py memory
	.venv/bin/python benchmarks/serving_formats.py quality
	.venv/bin/python benchmarks/serving_speculation.py ngram
	.venv/bin/python benchmarks/serving_speculation.py draft
	.venv/bin/python docs/render_formats.py
	.venv/bin/python benchmarks/render.py

bench: $(READY) ## render docs/benchmarks.md from what was measured
	.venv/bin/python benchmarks/render.py

clean: ## remove what runs have made (not .venv)
	rm -rf runs
