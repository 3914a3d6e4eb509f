"""What is left of a shard after policies and removal of copies: the text that later steps work on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import rows
from data_engine.measure import Folders


def remaining(name: str, number: int, removals: Sequence[Path], folders: Folders) -> tuple[np.ndarray, pa.Table]:
    """The rows of a shard that stay so far, (n,) int64, and their id and text."""
    decided = pq.read_table(folders.scratch("decided", name, "parquet"), columns=["reason"])["reason"]
    stays = np.array(decided.is_null())
    if removals:
        stays[rows.row_of(rows.read_refs(removals, number)["ref"])] = False
    places = np.flatnonzero(stays)
    return places, pq.read_table(folders.measured(name), columns=["id", "text"]).take(places)
