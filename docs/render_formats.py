"""Render docs/formats.md from serving/preflight.py: `python docs/render_formats.py` (make docs)."""

import json
from pathlib import Path
from typing import Any

from serving import preflight, preflight_table, schemes

PAGE = Path(__file__).resolve().parent / "formats.md"
RESULTS = PAGE.parent.parent / "benchmarks" / "results"
HEAD = f"""# Number formats

What runs where, by vLLM {preflight.VLLM}; rendered by `make docs` from the tables that `raymill serve up` refuses by
(`serving/preflight.py`), which a test compares with the checks of vLLM's own kernels. For the machine at hand, or a
checkpoint on it: `raymill serve preflight [CHECKPOINT]`. Engines ran on AVX-512
with BF16 units in full precision, INT8, INT4 W4A16 and with an FP8 cache; all else was read from vLLM's sources and
documentation, for AVX2 also from runs of its kernels.

The figures are those of `make bench-serving`.
"""


def table(columns: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """Markdown, with the notes below."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if not notes:
        return "\n".join(lines) + "\n"
    return "\n".join(lines) + "\n\n" + "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) + "\n"


def written() -> str:
    """What `serve quantize` writes."""
    rows = []
    for name, scheme in schemes.SCHEMES.items():
        shared = "blocks of 128 x 128" if scheme.block else ", ".join(map(str, scheme.groups)) or "a channel"
        rows.append([f"`{name}`", scheme.preset, ", ".join(scheme.methods), shared])
    return table(
        ["scheme", "llm-compressor's preset", "methods, the usual one first", "weights that share a scale"], rows, []
    )


def result(claim: str) -> dict[str, Any] | None:
    """What a benchmark wrote, None before it has run."""
    path = RESULTS / f"{claim}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def measured() -> str:
    """Speed, memory and quality of every format, from benchmarks/results."""
    parts = []
    if found := result("serve.auto_format_vs_best"):
        best = sorted(found["formats"].items(), key=lambda item: -(item[1]["mean_of_best"] or 0))
        rows = []
        for name, row in best:
            rates = row["tokens_per_second"] or {}
            speed = [f"{rates[many]:.1f}" if many in rates else "" for many in ("1", "16")]
            share = "" if row["mean_of_best"] is None else f"{row['mean_of_best']:.2f}"
            rows.append([name, *speed, share, f"{row['weights_mib']:.0f}"])
        columns = ["format, activations", "tokens/s, 1 request", "16 requests", "of the best", "weights, MiB"]
        parts += [f"100 M parameters, 64 tokens in, 64 out; {found['hardware']}, {found['date']}:\n"]
        parts += [table(columns, rows, [])]
        parts += [f"Not among them: {name} ({reason.partition(';')[0]})." for name, reason in found["left_out"].items()]
        parts += [""]
    if found := result("serve.int8_quality"):
        rows = [
            [
                f"`{name}`",
                f"{row['perplexity_increase']:.4f}",
                f"{row['kl_divergence']:.5f}",
                f"{row['top1_agreement']:.2%}",
            ]
            for name, row in found["schemes"].items()
            if row["perplexity_increase"] is not None
        ]
        parts += [
            f"Quality, a trained model of {found['parameters'] / 1e6:.1f} M parameters, "
            f"{found['held_out_tokens']:,} held-out tokens; without schemes whose groups do not divide its layers:\n"
        ]
        columns = ["scheme and method", "perplexity, times", "KL divergence, nats per token", "top-1 agreement"]
        parts += [table(columns, rows, [])]
    return "\n".join(parts)


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## What `serve quantize` writes\n", written().rstrip() + "\n"]
    if figures := measured():
        parts += ["## Measured\n", figures.rstrip() + "\n"]
    parts += ["## Formats and machines\n", table(*preflight_table.matrix())]
    parts += ["## What is built on a format\n", table(*preflight_table.features())]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
