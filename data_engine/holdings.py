"""Where the sketch and the text of a document lie, by its ref: in this run, or in an artifact it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_engine import rows

_EARLIER_SHARD = int(rows.EARLIER) >> 32


@dataclass(frozen=True)
class Holding:
    """The files of one shard, row by row alike: rows.DOCUMENT as .npy, and Parquet with `text`."""

    sketch: Path
    text: Path


@dataclass(frozen=True)
class Holdings:
    """The shards of a run in the order of their numbers, and those of earlier artifacts in the order of theirs."""

    own: Sequence[Holding]
    earlier: Sequence[Holding] = ()

    def shards(self) -> list[int]:
        """The number of every shard, as in the upper half of a ref."""
        return [*range(len(self.own)), *(_EARLIER_SHARD + number for number in range(len(self.earlier)))]

    def of(self, shard: int) -> Holding:
        """The files of a shard."""
        return self.own[shard] if shard < _EARLIER_SHARD else self.earlier[shard - _EARLIER_SHARD]

    def documents(self, refs: np.ndarray) -> np.ndarray:
        """The narrow rows of documents, (n,) rows.DOCUMENT. refs: (n,) uint64 in any order."""
        places = np.argsort(refs)
        ranked = refs[places]
        out = np.zeros(refs.size, rows.DOCUMENT)
        for shard, part in rows.by_shard(ranked):
            out[places[part]] = rows.load(self.of(shard).sketch)[rows.row_of(ranked[part])]
        out["ref"] = refs
        return out
