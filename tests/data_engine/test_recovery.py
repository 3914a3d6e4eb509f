"""A driver, worker or node killed at a random moment of a build, or a disk that fills up: the same files at last."""

import random
import resource
import subprocess
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
import yaml

from core import config, storage
from core.errors import RaymillError
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.killing import attempts, kill_one, ray_workers

FOLDERS = ("documents", "measured", "rejects", "duplicates", "quarantine")
QUIET = {name: {"enabled": False} for name in ("toxicity", "gopher_repetition", "gopher_quality", "c4", "fineweb")}


def moments(first, count):
    """Seeds of `count` moments for `make test-faults`, and of one before them for `make test`."""
    return [
        pytest.param(first, marks=pytest.mark.slow),
        *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(first + 1, first + 1 + count)),
    ]


def settings_of(output, path, **changes):
    return {
        "output": str(output),
        "sources": [{"name": "web", "paths": [str(path)]}],
        "language": {"min_score": 0.0},
        "policies": QUIET,
        **changes,
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """`settings(output)` of a build of some tens of shards of pages and rows, exact and near copies across them."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = corpora.rows_of(corpora.texts(13, originals=120))
    pages = [
        (row["url"], "200 OK", [("Content-Type", "text/html")], corpora.page(row["text"]).encode()) for row in rows[:70]
    ]
    (folder / "pages.warc.gz").write_bytes(corpora.warc(pages))
    corpora.write_jsonl(folder / "rows.jsonl", rows[70:])
    return lambda output: settings_of(output, folder / "*", shard_bytes=20_000)


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


def progress(run):
    """How many shards are measured, and written: between the two, copies are removed."""
    return sum(len(list((run / folder).glob("*.parquet"))) for folder in ("measured", "documents"))


@pytest.fixture(scope="module")
def undisturbed(settings, ray_session, tmp_path_factory):
    """(its files, how far its progress goes)."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    manifest = build(settings(output))
    assert len(written(output)) >= 10
    assert manifest.counts["read"] > manifest.counts["kept"] > 0
    return files_of(output), progress(output)


class Moment:
    """A random moment between the first shard and the last: a number of shards, and a little time after it."""

    def __init__(self, seed, last):
        self.random = random.Random(seed)
        self.shards = self.random.randrange(1, last - 3)
        self.seconds = self.random.uniform(0, 0.1)
        self.last = last

    def has_come(self, run):
        if progress(run) < self.shards:
            return False
        time.sleep(self.seconds)
        return True

    def __str__(self):
        return f"{self.seconds:.2f} s after shard {self.shards} of {self.last}"


@pytest.mark.parametrize("seed", moments(100, 8))
def test_a_killed_driver_loses_no_shard_that_was_finished(settings, undisturbed, tmp_path, seed):
    expected, last = undisturbed
    output, moment = tmp_path / "run", Moment(seed, last)
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings(output)))
    with attempts(tmp_path / "log") as start:
        run = start("data", "build", str(tmp_path / "build.yaml"))
        assert run.wait_for(lambda: moment.has_come(output)), run.said()
        assert run.running
        run.kill_driver()
        print(f"seed {seed}: driver killed {moment}")
        assert not (output / "manifest.json").exists()
        left = written(output)
        build(settings(output))  # at once: what the dead driver left may still be at work
        run.wait_until_gone()
    assert files_of(output) == expected
    now = written(output)
    assert all(now[name] == when for name, when in left.items()), "a finished shard was measured again"
    assert not list(output.rglob(".*.tmp"))


@pytest.mark.parametrize("seed", moments(200, 8))
def test_a_killed_worker_is_replaced_and_the_stage_goes_on(settings, undisturbed, tmp_path, seed):
    expected, last = undisturbed
    output, moment = tmp_path / "run", Moment(seed, last)
    killed, over = [], threading.Event()

    def kill():
        while not moment.has_come(output) and not over.wait(0.01):
            continue
        while not killed and not over.wait(0.001):
            if (doing := kill_one(ray_workers(psutil.Process(), "ray::Map"), moment.random)) is not None:
                killed.append(doing)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        build(settings(output))
    finally:
        over.set()
        killer.join()
    print(f"seed {seed}: {moment}: killed {killed}")
    assert killed
    assert files_of(output) == expected


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
    expected, last = undisturbed
    output, moment = tmp_path / "run", Moment(seed, last)
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings(output)))
    with three_nodes() as (cluster, others), attempts(tmp_path / "log") as start:
        command = ("data", "build", str(tmp_path / "build.yaml"), "--address", cluster.address)
        run = start(*command)
        assert run.wait_for(lambda: moment.has_come(output)), run.said()
        assert run.running
        moment.random.choice(others).kill_raylet(check_alive=False)
        print(f"seed {seed}: raylet killed {moment}")
        if run.wait() != 0:
            print(run.said())
            assert start(*command).wait() == 0, run.said()[-3000:]
    assert files_of(output) == expected


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """`rows(output)` of a build of documents that need no extraction, and the files of that build."""
    folder = tmp_path_factory.mktemp("rows")
    corpora.write_jsonl(folder / "rows.jsonl", corpora.rows_of(corpora.texts(17, originals=20)))
    build(settings_of(folder / "run", folder / "rows.jsonl"))
    return lambda output, **changes: settings_of(output, folder / "rows.jsonl", **changes), files_of(folder / "run")


@contextmanager
def small_disk(folder, size):
    """A disk of `size` bytes at `folder`; yields `enlarge(bytes)`."""

    def mount(*arguments):
        return subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)

    folder.mkdir(exist_ok=True)
    if (tried := mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")).returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {tried.stderr.strip()}")
    try:
        yield lambda larger: mount("-o", f"remount,size={larger}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_clear_error(work):
    with pytest.raises(RaymillError) as raised:
        work()
    assert raised.value.exit_code == 1
    assert "no space left to write" in str(raised.value)
    assert "run the same command again" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_one_clear_error_wherever_it_happens_and_the_same_command_goes_on(tmp_path, rows):
    settings, expected = rows
    for size, step in ((100 << 10, "sketches"), (400 << 10, "measured"), (580 << 10, "duplicates")):
        with small_disk(tmp_path / "disk", size) as enlarge:
            output = tmp_path / "disk" / "run"
            one_clear_error(lambda at=output: build(settings(at)))
            print(size, sorted(path.name for path in output.iterdir()))
            assert (output / step).exists()
            assert not list(output.rglob(".*.tmp")), "what did not fit still takes space"
            enlarge(64 << 20)
            build(settings(output))
            assert files_of(output) == expected


@pytest.mark.slow
def test_a_disk_that_fills_under_ray_workers_is_one_clear_error(tmp_path, rows, ray_session):
    settings, _ = rows
    build(settings(tmp_path / "run", shard_bytes=20_000))
    with small_disk(tmp_path / "disk", 120 << 10) as enlarge:
        output = tmp_path / "disk" / "run"
        one_clear_error(lambda: build(settings(output, shard_bytes=20_000)))
        assert written(output)
        enlarge(64 << 20)
        build(settings(output, shard_bytes=20_000))
        assert files_of(output) == files_of(tmp_path / "run")


def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is(tmp_path, rows):
    """Needs no right to mount: the system refuses the largest file of the build, its signatures."""
    settings, expected = rows
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, hard))
    try:
        one_clear_error(lambda: build(settings(tmp_path / "run")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    build(settings(tmp_path / "run"))
    assert files_of(tmp_path / "run") == expected
