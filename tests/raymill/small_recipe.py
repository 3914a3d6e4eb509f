"""The quickstart's recipe in miniature: the same stages on a site of a few hundred pages, each for a few steps."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.conftest import ROOT

RECIPE = ROOT / "examples" / "quickstart" / "recipe.yaml"
STAGES = (
    *("crawl", "build", "tokenize", "derive", "pretrain", "sft", "dpo"),
    *("eval", "compare", "quantize", "endpoint"),
)
_SMALLER = (
    f'services.site.command=[python, "{RECIPE.parent}/site.py", --port, "${{site.port}}", --small]',
    "tokenize.vocab_size=1024",
    "pretrain.model.hidden_size=64",
    "pretrain.model.intermediate_size=176",
    "pretrain.model.heads=2",
    "pretrain.steps=240",
    "pretrain.optimizer.learning_rate=0.003",
    "pretrain.validation_tokens=8192",
    "pretrain.checkpoint_every=80",
    "sft.steps=20",
    "sft.exact_match_prompts=40",
    "dpo.steps=10",
    "eval.tasks.0.limit=10",
    "compare.gates=[{metric: bits_per_byte.bits_per_byte, max_drop: 10}]",
    "quantize.samples=8",
    "quantize.held_out_samples=4",
    "quantize.max_perplexity_increase=2",
)


def overrides(output: Path, *more: str, stages: Sequence[str] = STAGES) -> list[str]:
    """Arguments of `raymill run` that make it small and put the run directories below `output`."""
    left_out = tuple(f"{stage}." for stage in STAGES if stage not in stages)
    settings = (f"output={output}", *_SMALLER, *more)
    return [word for setting in settings if not setting.startswith(left_out) for word in ("--set", setting)]


def write_until(last: str, folder: Path) -> Path:
    """The recipe as a file that ends with the stage `last`."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8").replace("${here}", str(RECIPE.parent)))
    names = list(recipe["stages"])
    recipe["stages"] = {name: recipe["stages"][name] for name in names[: names.index(last) + 1]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
