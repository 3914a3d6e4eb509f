"""What is in a documents artifact: counts, columns of a sample, the texts of chosen documents."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from core.errors import UserError
from data_engine.corpus import list_shards
from data_engine.pii import KINDS, placeholder, scrub

_BATCH = 1024
_CONTEXT = 120
"""Characters shown on either side of a placeholder."""


@dataclass
class Text:
    """A document as a page shows it; personal data in it is replaced, whether it was kept or not."""

    id: str
    url: str
    text: str


@dataclass
class Placeholders:
    """Placeholders of personal data in the kept texts: how many, in how many documents, and a few in their context."""

    count: int = 0
    documents: int = 0
    examples: list[Text] = field(default_factory=list)


class Census:
    """A documents artifact, or any Parquet files with `id` and `text`, opened for counting.

    `measured`, `rejects` and `duplicates` are empty tables or None where the artifact has none. Raises UserError as
    `list_shards` does, and for a file that is damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.documents = _dataset([shard.path for shard in list_shards(path)])
        self.measured = self._part("measured")
        self.rejects = self._table("rejects", ["id", "url", "reason", "value", "threshold"])
        self.duplicates = self._table("duplicates", ["id", "kind", "cluster_id", "survivor_id", "jaccard"])

    def _part(self, name: str) -> ds.Dataset | None:
        files = sorted(Path(self.path, name).glob("*.parquet")) if Path(self.path).is_dir() else []
        return _dataset([str(file) for file in files]) if files else None

    def _table(self, name: str, columns: list[str]) -> pa.Table:
        part = self._part(name)
        return part.to_table(columns=columns) if part is not None else pa.table({c: pa.array([]) for c in columns})

    @property
    def everything(self) -> ds.Dataset:
        """Measured documents, kept or not, where the artifact has them; else the kept ones."""
        return self.measured if self.measured is not None else self.documents

    def tally(self, dataset: ds.Dataset, column: str) -> Counter[str]:
        """Documents by the value of a text column; empty when there is no such column."""
        counts: Counter[str] = Counter()
        if column in dataset.schema.names:
            for batch in dataset.to_batches(columns=[column]):
                for entry in pc.value_counts(batch.column(column)).to_pylist():
                    counts[entry["values"] or "unknown"] += entry["counts"]
        return counts

    def sample(self, most: int) -> pa.Table:
        """Every k-th document, `most` at most: id, url, source, language and each signal as a column; no text.

        `characters` is measured here where the artifact has no signals.
        """
        dataset = self.everything
        wanted: dict[str, Any] = {
            name: ds.field(name)
            for name in ("id", "url", "source", "language", "language_score")
            if name in dataset.schema.names
        }
        signals = dataset.schema.field("signals").type if "signals" in dataset.schema.names else []
        wanted |= {part.name: ds.field("signals", part.name) for part in signals}
        if "characters" not in wanted:
            wanted["characters"] = pc.coalesce(pc.utf8_length(ds.field("text")), pc.scalar(0))
        step = -(-dataset.count_rows() // most) or 1
        parts, seen = [], 0
        for batch in dataset.to_batches(columns=wanted):
            places = range(-seen % step, batch.num_rows, step)
            if places:
                parts.append(batch.take(pa.array(places, pa.int64())))
            seen += batch.num_rows
        return pa.Table.from_batches(parts) if parts else ds.Scanner.from_dataset(dataset, columns=wanted).head(0)

    def texts(self, ids: Iterable[str]) -> dict[str, Text]:
        """The texts of documents by id, kept or not; those of other artifacts are absent."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        columns = [name for name in ("id", "url", "text") if name in self.everything.schema.names]
        found = {}
        for row in self.everything.to_table(columns=columns, filter=ds.field("id").isin(wanted)).to_pylist():
            found[row["id"]] = Text(row["id"], row.get("url") or row["id"], scrub(row["text"] or "", list(KINDS))[0])
        return found

    def placeholders(self, examples: int) -> dict[str, Placeholders]:
        """Of each kind of personal data, in one pass over the kept texts."""
        found = {kind: Placeholders() for kind in KINDS}
        columns = [name for name in ("id", "url", "text") if name in self.documents.schema.names]
        for batch in self.documents.to_batches(columns=columns, batch_size=_BATCH):
            for kind, held in found.items():
                counts = pc.count_substring(batch.column("text"), placeholder(kind))
                held.count += pc.sum(counts).as_py() or 0
                marked = batch.filter(pc.greater(counts, 0))
                held.documents += marked.num_rows
                for row in marked.slice(0, examples - len(held.examples)).to_pylist():
                    context = _context(row["text"], placeholder(kind))
                    held.examples.append(Text(row["id"], row.get("url") or row["id"], context))
        return {kind: held for kind, held in found.items() if held.count}


def draw(ids: Sequence[str], number: int, seed: int, purpose: str) -> list[str]:
    """`number` ids, the same ones for the same seed and purpose in whatever order they come."""

    def place(identity: str) -> bytes:
        return hashlib.blake2b(f"{seed} {purpose} {identity}".encode(), digest_size=8).digest()

    return sorted(ids, key=place)[:number]


def by_reason(rejects: pa.Table) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of rejects under their reasons, the most frequent reason first."""
    reasons = Counter(rejects["reason"].to_pylist())
    groups: dict[str, list[Mapping[str, Any]]] = {reason: [] for reason, _ in reasons.most_common()}
    for row in rejects.to_pylist():
        groups[row["reason"]].append(row)
    return groups


def _context(text: str, mark: str) -> str:
    at = text.index(mark)
    begin, end = max(0, at - _CONTEXT), at + len(mark) + _CONTEXT
    return ("..." if begin else "") + text[begin:end] + ("..." if end < len(text) else "")


def _dataset(files: list[str]) -> ds.Dataset:
    try:
        return ds.dataset(files, format="parquet")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{files[0]}: not readable as Parquet: {str(error).splitlines()[0]}") from None
