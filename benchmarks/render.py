"""Render docs/benchmarks.md from claims.json and results/: `python benchmarks/render.py`.

A claim is a figure with a bar (what must hold) and an aim (where we want to be). `results/<claim id>.json` is written
by the script that measures it: {"id", "value", "ours", "theirs", "runs", "machine", "date", "command", "commit"}.
`results/other_machines/` holds, under the same names, what one with other vector units gave.
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
STAGES = {"data": "Data engine", "train": "Training", "serve": "Serving"}
HEAD = """# Benchmarks

Every figure here was measured by a script in `benchmarks/`, side by side with its peer in one run; this page is
rendered by `make bench` from `benchmarks/claims.json` and `benchmarks/results/`. The bar is what must hold, the aim is
where we want to be. A second figure is of a machine with other vector units.
"""
NOTES = {
    "train": """
With AVX2 alone pretraining misses its bar beside Hugging Face's Trainer: both sides multiply by the same library there,
where ours takes a faster one on AVX-512 processors that are not Intel's (`training/products.py`).
""",
    "serve": """
The front door and bare vLLM serve one model with the same settings, but not by the same engine: ours runs its worker in
the engine's own process and packs no product for embedding tables, bare vLLM keeps a worker process that competes for
the two cores. The figures beside bare vLLM are of the whole, that with a no-op engine is of the door. Overload was
measured with a no-op engine, 8 requests running and 2 waiting; the default lets 32 wait, five answer times at most.
""",
}


def row(claim: dict) -> str:
    comparison = "at least" if claim["better"] == "higher" else "at most"
    cells = [claim["what"], f"{comparison} {claim['bar']}", str(claim["aim"])]
    paths = [RESULTS / f"{claim['id']}.json", RESULTS / "other_machines" / f"{claim['id']}.json"]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    figures = [f"**{found['value']:.4g}**" for found in results] or ["not yet measured"]
    sources = [f"{found['date']}, {found['machine']}, `{found['command']}`" for found in results]
    return "| " + " | ".join([*cells, "<br>".join(figures), "<br>".join(sources)]) + " |"


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
