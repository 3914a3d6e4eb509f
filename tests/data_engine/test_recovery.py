"""A driver, a worker or a node killed at a random moment of a build: the same files as if nothing had happened."""

import random
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
import yaml

from core import config, storage
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.killing import attempts, kill_one, ray_workers

FOLDERS = ("documents", "measured", "rejects", "duplicates", "quarantine")
QUIET = {name: {"enabled": False} for name in ("toxicity", "gopher_repetition", "gopher_quality", "c4", "fineweb")}


def some_quick(seeds):
    """The first of them runs in `make test`, the others in `make test-faults`."""
    return [
        pytest.param(seed, marks=[pytest.mark.slow] if seed == seeds[0] else [pytest.mark.faults]) for seed in seeds
    ]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """`settings(output)` of a build of some tens of shards, with exact and near copies across them."""
    folder = tmp_path_factory.mktemp("corpus")
    pages = [
        (f"http://h/{number}", "200 OK", [("Content-Type", "text/html")], corpora.page(text).encode())
        for number, text in enumerate(corpora.texts(13, originals=120))
    ]
    (folder / "a.warc.gz").write_bytes(corpora.warc(pages))
    sources = [{"name": "web", "paths": [str(folder / "a.warc.gz")]}]

    def of(output):
        return {
            "output": str(output),
            "sources": sources,
            "shard_bytes": 20_000,
            "language": {"min_score": 0.0},
            "policies": QUIET,
        }

    return of


def build(settings):
    return STAGE.execute(config.parse(STAGE.config, settings, "test"))[0]


def files_of(run):
    return {
        str(path.relative_to(run)): storage.digest_file(str(path))
        for folder in FOLDERS
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }


def written(run):
    return {path.name: path.stat().st_mtime_ns for path in (run / "measured").glob("*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(settings, ray_session, tmp_path_factory):
    """(its files, how many seconds it took)."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    manifest = build(settings(output))
    assert len(written(output)) >= 10
    assert manifest.counts["read"] > manifest.counts["kept"] > 0
    return files_of(output), manifest.timings["total"]


@pytest.mark.parametrize("seed", some_quick(range(100, 108)))
def test_a_killed_driver_loses_no_shard_that_was_finished(settings, undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    output = tmp_path / "run"
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings(output)))
    with attempts(tmp_path / "log") as start:
        run = start("data", "build", str(tmp_path / "build.yaml"))
        run.wait_for(lambda: written(output))
        moment = random.Random(seed).uniform(0, seconds)
        time.sleep(moment)
        print(f"seed {seed}: driver killed {moment:.2f} s after its first shard")
        run.kill_driver()
        left = written(output)
        build(settings(output))  # at once: what the dead driver left may still be at work
        run.wait_until_gone()
    assert files_of(output) == expected
    now = written(output)
    assert all(now[name] == when for name, when in left.items()), "a finished shard was measured again"
    assert not list(output.rglob(".*.tmp"))


@pytest.mark.parametrize("seed", some_quick(range(200, 208)))
def test_a_killed_worker_is_replaced_and_the_stage_goes_on(settings, undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    moments = random.Random(seed)
    moment = moments.uniform(0, seconds)
    killed, over = [], threading.Event()

    def kill():
        over.wait(moment)
        while not killed and not over.wait(0.01):
            if (doing := kill_one(ray_workers(psutil.Process(), "ray::Map"), moments)) is not None:
                killed.append(doing)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        build(settings(tmp_path / "run"))
    finally:
        over.set()
        killer.join()
    print(f"seed {seed}: {moment:.2f} s into the stage: killed {killed or 'nothing, it was over'}")
    assert files_of(tmp_path / "run") == expected


@contextmanager
def three_nodes():
    """A simulated cluster of three nodes of one core each."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        yield cluster, [cluster.add_node(**small) for _ in range(2)]
    finally:
        cluster.shutdown()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(300, 304))
def test_a_killed_node_takes_nothing_with_it(settings, undisturbed, tmp_path, seed):
    """kill -9 of a raylet in a simulated cluster of three nodes."""
    expected, seconds = undisturbed
    moments = random.Random(seed)
    output = tmp_path / "run"
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings(output)))
    with three_nodes() as (cluster, others), attempts(tmp_path / "log") as start:
        command = ("data", "build", str(tmp_path / "build.yaml"), "--address", cluster.address)
        run = start(*command)
        run.wait_for(lambda: written(output))
        moment = moments.uniform(0, seconds)
        time.sleep(moment)
        print(f"seed {seed}: raylet killed {moment:.2f} s after the first shard")
        moments.choice(others).kill_raylet(check_alive=False)
        if run.wait() != 0:
            print(run.said())
            assert start(*command).wait() == 0, run.said()[-3000:]
    assert files_of(output) == expected
