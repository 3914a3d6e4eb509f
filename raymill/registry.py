"""Every stage by its command: `data.build` is `raymill data build`."""

import importlib
from typing import Any

from core.stage import Stage

MODULES = {
    "data.crawl": "data_engine.crawl",
    "data.build": "data_engine.build",
    "data.index": "data_engine.index",
    "data.tokenize": "data_engine.tokenize",
    "data.stats": "data_engine.stats",
    "data.derive": "data_engine.derive",
    "data.ablate": "raymill.ablate",
    "data.train-classifier": "data_engine.train_classifier",
    "train.pretrain": "training.pretrain",
    "train.sft": "training.sft",
    "train.dpo": "training.dpo",
    "train.merge": "training.merge",
    "train.rounds": "raymill.rounds",
    "train.reward": "training.reward",
    "train.grpo": "training.grpo",
    "train.ppo": "training.ppo",
    "eval.run": "evaluation.run",
    "eval.compare": "evaluation.compare",
    "serve.quantize": "serving.quantize",
    "serve.up": "serving.up",
    "serve.bench": "serving.bench",
}


def load(name: str) -> Stage[Any]:
    """Import a stage. Only then are its libraries loaded, so `--help` stays quick."""
    stage: Stage[Any] = importlib.import_module(MODULES[name]).STAGE
    assert stage.name == name, f"{MODULES[name]} calls itself {stage.name}"
    return stage
