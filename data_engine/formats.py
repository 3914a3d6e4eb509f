"""Formats of input files: which there are, and which one a file's name says."""

from typing import Literal

Format = Literal["warc", "wet", "parquet", "jsonl", "arrow", "text", "html", "epub", "pdf", "code"]

CONTAINERS: tuple[Format, ...] = ("warc", "wet", "parquet", "jsonl", "arrow")
"""A file holds many documents; the others are one document each."""

ENDINGS: dict[str, Format] = {
    ".warc.gz": "warc",
    ".warc": "warc",
    ".wet.gz": "wet",
    ".wet": "wet",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".jsonl.bz2": "jsonl",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".epub": "epub",
    ".pdf": "pdf",
}
"""Source code has too many: `format: code` is asked for."""

MANIFESTS = (".paths.gz", ".paths")
"""Lists of paths, one a line, as Common Crawl publishes them."""


def by_name(file: str) -> Format | None:
    """The format that a file's name says."""
    name = file.lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)
