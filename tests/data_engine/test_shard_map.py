"""Tasks on Ray: what comes out must not depend on how many work at once, nor on the order in which input lies."""

import random
import time
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import pytest

from cluster import runtime
from core import config, storage
from core.errors import RaymillError, UserError
from core.run import Run
from data_engine import shard_map
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import ANY, files_of

GUARD_SECONDS = 300
"""Ray starts eight processes within seconds, but for a machine that has other work."""


@contextmanager
def workers(count):
    """Let `count` tasks run at once on the cores there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_map, "_CORES", runtime.cores() / count)
        yield


@pytest.fixture
def run(tmp_path):
    corpora.write_jsonl(tmp_path / "one.jsonl", [{"text": "one"}])
    settings = {
        "output": str(tmp_path / "tasks"),
        "sources": [{"name": "web", "paths": [str(tmp_path / "one.jsonl")]}],
    }
    with Run("test", 1, config.parse(STAGE.config, settings, "test")) as opened:
        yield opened


def wait_for_others(folder, task):
    """A task that ends when `count` tasks are at work at the same time."""
    (folder / str(task["number"])).touch()
    deadline = time.monotonic() + GUARD_SECONDS
    while len(list(folder.iterdir())) < task["count"]:
        if time.monotonic() > deadline:
            raise RaymillError("waited in vain for the others")
        time.sleep(0.01)
    return {}


def write(folder, rows):
    """Rows in two files, three broken lines among them."""
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        corpora.write_jsonl(folder / f"{number}.jsonl", part)
    with (folder / "1.jsonl").open("a") as file:
        file.writelines(f"{{broken {number}\n" for number in range(3))
    return folder


def build(output, folder, shard_bytes=15_000):
    """Rules, copies of each kind, personal data."""
    settings = {
        "output": str(output),
        "sources": [{"name": "web", "paths": [str(folder / "*.jsonl")]}],
        "language": {"min_score": 0.0},
        "policies": ANY | {"gopher_quality": {"min_words": 121, "max_mean_word_length": None, "min_stop_words": None}},
        "shard_bytes": shard_bytes,
        "repeated_text": {"substrings": {"enabled": True}},
    }
    STAGE.execute(config.parse(STAGE.config, settings, "test"))
    return output


def outcome(run):
    """All that a build says of documents, in no order: ids and text digests, rejects, duplicates, how many damaged."""
    kept = {(row["id"], storage.digest_bytes([row["text"].encode()])) for row in corpora.read_all(run / "documents")}
    rejects, duplicates = (
        sorted((tuple(row.items()) for row in corpora.read_all(run / folder)), key=str)
        for folder in ("rejects", "duplicates")
    )
    return (
        kept,
        rejects,
        duplicates,
        sum(len(path.read_bytes().splitlines()) for path in (run / "quarantine").glob("*")),
    )


@pytest.fixture(scope="module")
def rows():
    texts = corpora.texts(41, originals=30)
    shared = corpora.document(random.Random(1), 60)
    texts[5:100:9] = [f"{text}\n{shared}\nCall +49 30 1234567." for text in texts[5:100:9]]
    return corpora.rows_of(texts)


@pytest.fixture(scope="module")
def by_one(rows, ray_session, tmp_path_factory):
    """The input, and what one worker makes of it."""
    folder = tmp_path_factory.mktemp("one")
    with workers(1):
        built = build(folder / "run", write(folder, rows))
    assert len(list((built / "measured").iterdir())) > 8
    kept, rejects, duplicates, damaged = outcome(built)
    assert len(kept) > 20
    assert {dict(row)["reason"] for row in rejects} >= {"gopher_quality:short_doc", "dedup:exact", "dedup:near"}
    assert {dict(row)["kind"] for row in duplicates} == {"exact", "near", "substring"}
    assert damaged == 3
    return folder, built


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.faults)])
def test_any_number_of_workers_gives_the_same_bytes_as_one(tmp_path, by_one, run, count):
    folder, built = by_one
    (tmp_path / "at-work").mkdir()
    with workers(count):
        tasks = [{"number": number, "count": count} for number in range(count)]
        shard_map.map_tasks(run, "at once", tasks, partial(wait_for_others, tmp_path / "at-work"))
        assert files_of(build(tmp_path / "run", folder)) == files_of(built)


@pytest.mark.slow
def test_the_order_of_input_changes_no_document_no_reject_and_no_duplicate(tmp_path, rows, by_one):
    shuffled = random.Random(2).sample(rows, len(rows))
    assert outcome(build(tmp_path / "run", write(tmp_path, shuffled), 25_000)) == outcome(by_one[1])


class Told:
    """Says in a folder each time it is loaded."""

    def __init__(self, folder, number):
        self.folder, self.number = folder, number

    def __setstate__(self, state):
        self.__dict__ = state
        (self.folder / f"{self.number}-{uuid4().hex}").touch()


def number_of(task):
    return {"number": task["told"].number}


@pytest.mark.slow
def test_a_task_loads_itself_and_no_other(tmp_path, run, ray_session):
    (tmp_path / "loaded").mkdir()
    tasks = [{"told": Told(tmp_path / "loaded", number)} for number in range(20)]
    results = shard_map.map_tasks(run, "told", tasks, number_of)
    assert sorted(result["number"] for result in results) == list(range(20))
    assert len(list((tmp_path / "loaded").iterdir())) == 20


def refuse(task):
    raise UserError(f"task {task['number']}: not so")


def divide(task):
    return {"result": 1 // task["number"]}


@pytest.mark.slow
def test_what_a_task_raises_is_one_line_of_the_stage(run, ray_session):
    tasks = [{"number": number} for number in range(2)]
    with pytest.raises(UserError, match=r"task \d: not so"):
        shard_map.map_tasks(run, "refused", tasks, refuse)
    with pytest.raises(RaymillError, match="a task failed: ZeroDivisionError: integer division or modulo by zero"):
        shard_map.map_tasks(run, "failed", tasks, divide)
    assert shard_map.map_tasks(run, "nothing", [], divide) == []
