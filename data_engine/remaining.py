"""What is left of a shard after policies and removal of copies: the text that later steps work on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine import rows
from data_engine.measure import Folders


def remaining(name: str, number: int, removals: Sequence[Path], folders: Folders) -> tuple[np.ndarray, pa.Table]:
    """The rows of a shard that stay so far, (n,) int64, and their id and text."""
    places = _places(name, number, removals, folders)
    return places, pq.read_table(folders.measured(name), columns=["id", "text"]).take(places)


def rejected_since(name: str, number: int, removals: Sequence[Path], folders: Folders) -> np.ndarray:
    """The refs, (n,) uint64, of those that later steps kept out of the `documents/` of a shard that is written."""
    places = _places(name, number, removals, folders)
    ids = pq.read_table(folders.measured(name), columns=["id"])["id"].take(places)
    kept = pq.read_table(folders.documents(name), columns=["id"])["id"]
    out = np.array(pc.invert(pc.is_in(ids, value_set=kept)), bool)
    return rows.refs(number, int(places.max(initial=-1)) + 1)[places[out]]


def _places(name: str, number: int, removals: Sequence[Path], folders: Folders) -> np.ndarray:
    decided = pq.read_table(folders.scratch("decided", name, "parquet"), columns=["reason"])["reason"]
    stays = np.array(decided.is_null())
    if removals:
        stays[rows.row_of(rows.read_refs(removals, number)["ref"])] = False
    return np.flatnonzero(stays)
