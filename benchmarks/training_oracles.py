"""Claims train.sft_loss_vs_trl and train.dpo_loss_vs_trl: the largest difference of losses over 20 steps, FP32.

The same fresh Llama, real data, order, rate and batch on both sides, for full fine-tuning and LoRA, and for DPO, RPO,
robust, IPO of means and KTO. The rates are ten times those of TRL's defaults, so that losses move.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import harness

harness.one_thread()
sys.path.insert(0, str(harness.HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.oracles import trl_runs  # noqa: E402
from tests.training import fixtures  # noqa: E402
from training.dpo import DpoConfig  # noqa: E402
from training.model import ModelConfig  # noqa: E402
from training.sft import SftConfig  # noqa: E402

STEPS, LENGTH = 20, 384
MODEL = ModelConfig(hidden_size=64, layers=2, heads=4, intermediate_size=172, max_length=LENGTH)
SAME: dict[str, Any] = {
    "steps": STEPS, "max_length": LENGTH, "precision": "fp32", "workers": 0, "threads": 1, "micro_batch": 4,
    "schedule": {"warmup": 0, "decay": 0},
}  # fmt: skip
FINE_TUNING = {"full": ("full", 2e-4), "LoRA": ("lora", 2e-4)}
PREFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DPO": ({}, {"loss_type": ["sigmoid"]}),
    "RPO": ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    "robust": ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
    "IPO of means": ({"loss": "ipo", "length_normalized": True}, {"loss_type": ["ipo"]}),
    "KTO": ({"loss": "kto"}, {}),
}


def optimizer(rate: float) -> dict[str, float]:
    return {"learning_rate": rate, "weight_decay": 0.0}


def write(claim: str, found: dict[str, trl_runs.Losses]) -> None:
    """The claim is about the largest difference of all; the losses of the method with it are kept."""
    differences = {name: float(np.abs(ours - theirs).max()) for name, (ours, theirs) in found.items()}
    worst = max(differences, key=differences.__getitem__)
    ours, theirs = found[worst]
    moved = {name: float(np.ptp(losses)) for name, (losses, _) in found.items()}
    values = list(differences.values())
    harness.write(claim, max(values), ours.tolist(), theirs.tolist(), values, by_method=differences, moved=moved)


def fine_tuning(folder: Path, base: Path) -> None:
    path = _first_rows("instructions/gsm8k_train.jsonl", 400, folder)
    found = {}
    for name, (method, rate) in FINE_TUNING.items():
        config = SftConfig(
            output=str(folder / f"sft {name}"), checkpoint=str(base), conversations=path, heldout=path, method=method,
            batch_size=8, optimizer=optimizer(rate), exact_match_prompts=1, max_new_tokens=1, **SAME,
        )  # fmt: skip
        found[name] = trl_runs.sft_losses(config, folder / f"trl {name}", micro_batch=2)
    write("train.sft_loss_vs_trl", found)


def preferences(folder: Path, base: Path) -> None:
    path = _first_rows("preferences/harmless_base_1500.jsonl", 400, folder)
    found = {}
    for name, (ours, theirs) in PREFERENCES.items():
        config = DpoConfig(
            output=str(folder / f"dpo {name}"), checkpoint=str(base), preferences=path, heldout=path, method="full",
            batch_size=8, optimizer=optimizer(1e-5), preference={"beta": 0.1, **ours}, **SAME,
        )  # fmt: skip
        if name == "KTO":
            found[name] = trl_runs.kto_losses(config, folder / f"trl {name}")
        else:
            found[name] = trl_runs.dpo_losses(config, folder / f"trl {name}", micro_batch=1, **theirs)
    write("train.dpo_loss_vs_trl", found)


def _first_rows(name: str, count: int, folder: Path) -> str:
    source = harness.test_data(name)
    path = folder / source.name
    path.write_text("\n".join(source.read_text(encoding="utf-8").split("\n")[:count]), encoding="utf-8")
    return str(path)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = fixtures.write_checkpoint(folder / "base", MODEL)
        fine_tuning(folder, base)
        preferences(folder, base)


if __name__ == "__main__":
    main()
