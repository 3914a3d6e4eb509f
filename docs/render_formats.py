"""Render docs/formats.md from serving/preflight.py: `python docs/render_formats.py` (make docs)."""

from pathlib import Path

from serving import preflight, preflight_table, schemes

PAGE = Path(__file__).resolve().parent / "formats.md"
HEAD = f"""# Number formats

What runs where, by vLLM {preflight.VLLM}; rendered by `make docs` from the tables that `raymill serve up` refuses by
(`serving/preflight.py`), which a test compares with the checks of vLLM's own kernels. For the machine at hand, or a
checkpoint on it: `raymill serve preflight [CHECKPOINT]`. The CPU columns were run on AVX2 and on AVX-512 BF16 machines
where a note says nothing else; the GPU columns were read from vLLM's sources and documentation and not run by us.

How fast, how large and how exact each format is: [benchmarks.md](benchmarks.md) and [serving.md](serving.md).
"""


def table(columns: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """Markdown, with the notes below."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
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


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## What `serve quantize` writes\n", written().rstrip() + "\n"]
    parts += ["## Formats and machines\n", table(*preflight_table.matrix())]
    parts += ["## What is built on a format\n", table(*preflight_table.features())]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
