"""Counts of a build from the files themselves, and the check that nothing was lost on the way."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from core.errors import RaymillError
from data_engine.measure import Folders
from data_engine.sources import Shard


@dataclass
class Balance:
    """What was read and what became of it. `documents` were measured; `kept` of them stay."""

    documents: int = 0
    quarantined: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    first_error: str = ""

    @property
    def read(self) -> int:
        """Document-bearing records, readable or not."""
        return self.documents + self.quarantined

    def check(self) -> None:
        """Raises RaymillError unless read = kept + rejected by reason (duplicates among them) + quarantined."""
        out = self.kept + self.rejected.total() + self.quarantined
        if self.read != out:
            raise RaymillError(
                f"documents do not balance: {self.read:,} read, but {self.kept:,} kept + {self.rejected.total():,} "
                f"rejected + {self.quarantined:,} quarantined = {out:,}; delete the run directory and build again"
            )

    def counts(self) -> dict[str, Any]:
        """The counts of the manifest."""
        return {
            "read": self.read,
            "kept": self.kept,
            "rejected": dict(self.rejected.most_common()),
            "quarantined": self.quarantined,
            "skipped_records": dict(sorted(self.skipped.items())),
        }

    def metrics(self) -> dict[str, Any]:
        """What else is known of the documents."""
        return {"pii": dict(sorted(self.pii.items())), "kept_share": round(self.kept / max(self.read, 1), 4)}


def collect(shards: Sequence[Shard], folders: Folders) -> Balance:
    """Add up the metadata of the shards' files that exist; quarantined entries are counted line by line."""
    balance = Balance()
    for shard in shards:
        if folders.measured(shard.name).exists():
            measured = _metadata(folders.measured(shard.name))
            balance.documents += measured["documents"]
            balance.skipped.update(measured["skipped"])
        if folders.quarantine(shard.name).exists():
            lines = folders.quarantine(shard.name).read_text(encoding="utf-8").split("\n")[:-1]
            balance.quarantined += len(lines)
            if not balance.first_error and lines:
                entry = json.loads(lines[0])
                balance.first_error = f"{entry['locator']['file']}: {entry['error']}"
        if folders.rejects(shard.name).exists():
            balance.rejected.update(_metadata(folders.rejects(shard.name)))
        if folders.documents(shard.name).exists():
            balance.kept += pq.read_metadata(folders.documents(shard.name)).num_rows
            balance.pii.update(_metadata(folders.documents(shard.name))["pii"])
    return balance


def _metadata(path: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[b"raymill"])
    return content
