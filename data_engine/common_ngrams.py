"""N-grams of benchmark items that many documents hold: quotations, proverbs, legal phrases are no contamination.

GPT-3 ignored 13-grams in more than 10 training documents (Brown et al. 2020, appendix C).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from core.run import Run
from data_engine import decontaminate, rows
from data_engine.decontaminate import DecontaminationConfig
from data_engine.measure import Folders
from data_engine.shard_map import Task, map_tasks

_STEP = "ngram_documents"
_COUNT = np.dtype([("ngram", "<i8"), ("documents", "<i8")])


def find(
    run: Run, names: Sequence[str], removals: Sequence[Path], config: DecontaminationConfig, folders: Folders
) -> int:
    """Count the documents that hold each n-gram and say which n-grams are common. Returns how many are.

    names: of shards in the order of their numbers; removals: files of rows.REMOVAL, copies that do not count.
    """
    if not config.benchmarks or config.max_documents is None:
        return 0
    tasks = [
        {"name": name, "number": number, "documents": 0}
        for number, name in enumerate(names)
        if not folders.scratch(_STEP, name).exists()
    ]
    map_tasks(run, "n-grams counted", tasks, partial(_count_shard, removals, folders))
    documents = np.zeros(decontaminate.index_of(folders).keys.size, np.int64)
    for name in names:
        held = rows.load(folders.scratch(_STEP, name))
        documents[held["ngram"]] += held["documents"]
    common = documents > config.max_documents
    decontaminate.save_common(common, folders)
    return int(common.sum())


def _count_shard(removals: Sequence[Path], folders: Folders, task: Task) -> dict[str, Any]:
    """Write how many of a shard's documents hold each n-gram that any of them holds."""
    staying = np.array(rows.load(folders.scratch("staying", task["name"]))["ref"])
    gone = rows.read_refs(removals, task["number"])["ref"] if removals else np.zeros(0, np.uint64)
    places = np.sort(rows.row_of(staying[~np.isin(staying, gone)]))
    texts = pq.read_table(folders.measured(task["name"]), columns=["text"])["text"].combine_chunks().take(places)
    hits = decontaminate.index_of(folders).find(texts)
    ngrams, documents = np.unique(np.unique(hits[:, :2], axis=0)[:, 1], return_counts=True)
    counts = np.zeros(ngrams.size, _COUNT)
    counts["ngram"], counts["documents"] = ngrams, documents
    rows.save(folders.scratch(_STEP, task["name"]), counts)
    return {}
