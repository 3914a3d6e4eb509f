"""The stage `data index`: an index of any documents artifact, for later builds to deduplicate against."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cluster import runtime
from core import manifest
from core.config import InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from data_engine import dedup_index, rows, sketch
from data_engine.decide import bands_of
from data_engine.holdings import Holding
from data_engine.measure import BATCH, Folders
from data_engine.minhash import DedupConfig
from data_engine.shard_map import Task, map_tasks


class IndexConfig(StageConfig):
    """Settings of `data index`."""

    documents: InputPath = Field(description="a documents artifact; it must stay where it is: texts are read from it")
    dedup: DedupConfig = Field(
        default_factory=DedupConfig, description="shingles, permutations and bands; later builds must have the same"
    )


def index(config: IndexConfig, run: Run) -> Manifest:
    """Sketch every document of an artifact and write its index."""
    manifest.require(config.documents)
    files = sorted(Path(config.documents, "documents").glob("*.parquet"))
    if not files:
        raise UserError(f"documents: {config.documents} holds no documents/*.parquet; name the artifact of a build")
    folders = Folders(run.directory)
    if len(files) > 1:
        runtime.connect()
    names = [file.stem for file in files]
    tasks = [
        {"number": number, "file": file}
        for number, file in enumerate(files)
        if not folders.scratch("bands", file.stem).exists()
    ]
    map_tasks(run, "sketched", tasks, partial(_sketch_file, config, folders), counted="documents")
    holdings = [Holding(folders.sketch(file.stem), _text_of(file)) for file in files]
    texts, bands = ([folders.scratch(step, name) for name in names] for step in ("staying", "bands"))
    dedup_index.write(run, holdings, texts, bands, [], config.dedup, folders)
    documents = sum(len(rows.load(file)) for file in texts)
    committed = run.commit(
        counts={"documents": documents}, metrics={"headline": [f"{documents:,} documents in the index"]}
    )
    folders.clear()
    return committed


def _text_of(file: Path) -> Path:
    """Where the texts of a file of documents are as they were measured: before personal data was replaced."""
    measured = file.parent.parent / "measured" / file.name
    return measured if measured.is_file() else file


def _sketch_file(config: IndexConfig, folders: Folders, task: Task) -> dict[str, Any]:
    """Write the sketches of a file of texts, row by row alike, and the keys of those that are documents."""
    file: Path = task["file"]
    wanted = pq.read_table(file, columns=["id"])["id"].combine_chunks()
    sketches = []
    with pq.ParquetFile(_text_of(file)) as texts:
        for batch in texts.iter_batches(BATCH, columns=["id", "text", "date"]):
            ids = [bytes.fromhex(identity) for identity in batch["id"].to_pylist()]
            text = batch["text"].cast(pa.large_string())
            sketches.append(sketch.sketch(ids, batch["date"].to_pylist(), text, config.dedup, config.seed))
    table, signatures = sketch.joined(sketches, config.dedup)
    table["ref"] = rows.refs(task["number"], table.size)
    rows.save(folders.sketch(file.stem), table)
    wanted_hi, wanted_lo = rows.halves([bytes.fromhex(identity) for identity in wanted.to_pylist()])
    held = np.isin(table["id_hi"], wanted_hi) & np.isin(table["id_lo"], wanted_lo)
    _, first = np.unique(table[["id_hi", "id_lo"]], return_index=True)
    held &= np.isin(np.arange(table.size), first)  # of the same row twice, the first is the document
    staying = table[held]
    rows.save(folders.scratch("staying", file.stem), staying[np.argsort(staying["text_hi"], kind="stable")])
    filled = held & (table["shingles"] > 0)
    rows.save(folders.scratch("bands", file.stem), bands_of(table[filled], signatures[filled], config.dedup))
    return {"documents": int(held.sum())}


STAGE = Stage(name="data.index", version=3, config=IndexConfig, run=index)
