"""The quickstart's recipe in miniature: the same stages on a site of a few hundred pages, each for a few steps."""

from pathlib import Path

from tests.conftest import ROOT

RECIPE = ROOT / "examples" / "quickstart" / "recipe.yaml"
STAGES = (
    *("crawl", "build", "tokenize", "derive", "pretrain", "sft", "dpo"),
    *("eval", "compare", "quantize", "endpoint"),
)
_SMALLER = (
    'services.site.command=[python, "${here}/site.py", --port, "${site.port}", --small]',
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


def overrides(output: Path, *more: str) -> list[str]:
    """Arguments of `raymill run` that make it small and put the run directories below `output`."""
    return [word for setting in (f"output={output}", *_SMALLER, *more) for word in ("--set", setting)]
