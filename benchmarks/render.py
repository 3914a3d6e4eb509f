"""Render docs/benchmarks.md from claims.json and results/: `python benchmarks/render.py`.

A claim is a figure with a bar (what must hold) and an aim (where we want to be). `results/<claim id>.json` is written
by the script that measures it: {"id", "value", "ours", "theirs", "runs", "machine", "date", "command", "commit"}.
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
STAGES = {"data": "Data engine", "train": "Training", "serve": "Serving"}
HEAD = """# Benchmarks

Every figure here was measured by a script in `benchmarks/`, side by side with its peer in one run; this page is
rendered by `make bench` from `benchmarks/claims.json` and `benchmarks/results/`. The bar is what must hold, the aim is
where we want to be.
"""
NOTES = {
    "train": """
Pretraining beside Hugging Face's Trainer was measured on an AMD EPYC with AVX-512, where products go through oneDNN.
On one with AVX2 alone both sides multiply by the same library: 1.11 times the Trainer (2026-12-01; 0.94, 1.11 and 1.12
in three rounds), which misses the bar of 1.2, at 0.65 of the FLOP/s of a large product.
""",
    "serve": """
The front door and bare vLLM serve one model with the same settings, but not by the same engine: ours runs its worker in
the engine's own process and packs no product for embedding tables, bare vLLM keeps a worker process that competes for
the two cores. The figures beside bare vLLM are of the whole, that with a no-op engine is of the door. Overload was
measured with a no-op engine, 8 requests running and 2 waiting; the default lets 32 wait, five answer times at most.
""",
}


def row(claim: dict) -> str:
    result = HERE / "results" / f"{claim['id']}.json"
    comparison = "at least" if claim["better"] == "higher" else "at most"
    cells = [claim["what"], f"{comparison} {claim['bar']}", str(claim["aim"])]
    if not result.is_file():
        return "| " + " | ".join([*cells, "not yet measured", ""]) + " |"
    found = json.loads(result.read_text(encoding="utf-8"))
    source = f"{found['date']}, {found['machine']}, `{found['command']}`"
    return "| " + " | ".join([*cells, f"**{found['value']:.4g}**", source]) + " |"


def page() -> str:
    claims = json.loads((HERE / "claims.json").read_text(encoding="utf-8"))
    parts = [HEAD]
    for prefix, title in STAGES.items():
        rows = [row(claim) for claim in claims if claim["id"].startswith(f"{prefix}.")]
        parts.append(
            f"\n## {title}\n\n| claim | bar | aim | measured | how |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
        parts.append(NOTES.get(prefix, ""))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
