"""`raymill cluster` from up to down, as its help says it, with real work in between."""

import json
import os
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from core import manifest
from core.token_set import TokenSet
from tests.data_engine.web import HOST, Web, links


def processes(text):
    """Processes that carry a text in their arguments."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(text in a for a in p.info["cmdline"] or [])]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def crawl_settings(web, output, **more):
    return {
        "output": str(output),
        "seeds": [f"http://{HOST}/"],
        "connect_to": {HOST: f"127.0.0.1:{web.port}"},
        "delay_seconds": 0.3,
        **more,
    }


def slow_site(pages):
    """A site that a crawl with a delay of 0.3 s is busy with until it is stopped."""
    paths = [f"/{n}" for n in range(pages)]
    return Web({"/": links(*paths), **{path: links() for path in paths}})


def write_tokenize(folder):
    rows = [
        {"id": f"{n:032x}", "text": f"number {n} of some words", "source": "s", "language": "en"} for n in range(60)
    ]
    rows = [{**row, "url": "u", "date": "", "language_score": 0.9} for row in rows]
    (folder / "documents").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "documents" / "part.parquet")
    settings = {"output": "tokens", "documents": "documents", "vocab_size": 300, "validation_fraction": 0.2}
    (folder / "tokenize.yaml").write_text(yaml.safe_dump(settings))


def states(call):
    """What `raymill cluster jobs` says: job -> (status, command)."""
    rows = [line.strip().split(maxsplit=6) for line in call("jobs").stdout.splitlines()[1:]]
    return {row[0]: (row[1], row[-1]) for row in rows}


@pytest.mark.slow
def test_jobs_are_sent_followed_listed_and_stopped(call):
    """The round trip, once: a stage that ends well, and one that is stopped."""
    write_tokenize(call.folder)
    sent = call("submit", "--", "data", "tokenize", "tokenize.yaml")
    assert sent.returncode == 0, sent.stderr
    name = sent.stdout.split()[1]
    assert name.startswith("data-tokenize-")
    assert f"follow it: raymill cluster logs -f {name}" in sent.stdout
    followed = call("logs", "-f", name)
    assert followed.returncode == 0, followed.stderr + followed.stdout
    assert "data.tokenize" in followed.stdout
    assert "done: tokens" in followed.stdout
    assert manifest.require(call.folder / "tokens", "data.tokenize").counts
    assert len(TokenSet(call.folder / "tokens").index) == 60

    web = slow_site(1000)
    with web.serve():
        (call.folder / "round.yaml").write_text(yaml.safe_dump(crawl_settings(web, call.folder / "round")))
        crawl = call("submit", "--", "data", "crawl", "round.yaml").stdout.split()[1]
        wait_for(lambda: len(web.paths) > 2)
        listed = states(call)
        assert listed[name] == ("succeeded", "data tokenize tokenize.yaml")
        assert listed[crawl] == ("running", "data crawl round.yaml")
        stopped = call("stop", crawl)
        assert (stopped.returncode, stopped.stdout) == (0, f"{crawl}: stopped\n")
        asked = len(web.paths)
        time.sleep(1)
    assert len(web.paths) == asked, "a stopped job works on"
    assert not processes("round.yaml")
    assert not (call.folder / "round" / "manifest.json").exists()


@pytest.mark.faults
def test_a_second_submit_reuses_the_artifact(call):
    write_tokenize(call.folder)
    names = []
    for words in ("done: tokens", "up to date, reused: tokens"):
        done = call("submit", "--wait", "--", "data", "tokenize", "tokenize.yaml", "--set", "seed=1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert words in done.stdout
        names.append(done.stdout.split()[1])
    assert names[1] == f"{names[0]}-2"


@pytest.mark.faults
def test_a_stopped_job_goes_on_where_it_was(call):
    web = slow_site(300)
    with web.serve():
        (call.folder / "crawl.yaml").write_text(yaml.safe_dump(crawl_settings(web, call.folder / "crawl")))
        first = call("submit", "--", "data", "crawl", "crawl.yaml")
        name = first.stdout.split()[1]
        wait_for(lambda: len(web.paths) > 5)
        assert call("submit", "--", "data", "crawl", "crawl.yaml").stdout.startswith(f"already running: {name}\n")
        assert call("stop", name).stdout == f"{name}: stopped\n"
        assert call("stop", name).stdout == f"{name}: stopped\n", "stopping twice is no mistake"
        asked = len(web.paths)
        assert asked < 301
        assert call("logs", "-f", name).returncode == 1, "a stopped job did not succeed"
        again = call("submit", "--wait", "--", "data", "crawl", "crawl.yaml", "--set", "delay_seconds=0")
    assert again.returncode == 0, again.stdout + again.stderr
    assert manifest.require(call.folder / "crawl").counts["fetched"] == 301
    assert len(web.paths) <= 302, "only what was under way when it stopped may be fetched twice"


@pytest.mark.faults
def test_address_auto_finds_the_local_cluster(call):
    write_tokenize(call.folder)
    answer = call.raymill("data", "tokenize", "tokenize.yaml", "--set", "output=auto", "--address", "auto")
    assert answer.returncode == 0, answer.stderr
    address = json.loads(call.state.read_text())["address"]
    assert f"connected to the Ray cluster at {address}" in answer.stderr


@pytest.mark.faults
def test_second_up_finds_the_first(call):
    assert call("up", "--local").stdout.startswith("already running: Ray at 127.0.0.1")


@pytest.mark.faults
def test_down_takes_the_cluster_and_its_jobs_and_nothing_else(call):
    temporary = json.loads(call.state.read_text())["temporary"]
    log = next(path for path in os.scandir(temporary) if path.is_dir()).path
    reader = psutil.Popen(["tail", "-f", "/dev/null", "--pid", str(os.getpid()), f"{log}/absent"], stderr=-3)
    web = Web({"/": links(*(f"/{n}" for n in range(400)))})
    try:
        with web.serve():
            (call.folder / "long.yaml").write_text(yaml.safe_dump(crawl_settings(web, call.folder / "long")))
            call("submit", "--", "data", "crawl", "long.yaml")
            wait_for(lambda: len(web.paths) > 1)
            down = call("down")
            assert (down.returncode, down.stdout) == (0, "stopped\n")
            wait_for(lambda: not processes("long.yaml"), 20)
        assert processes(temporary) == [reader], "what only reads the cluster's logs stays; all of Ray is gone"
    finally:
        reader.kill()
        reader.wait()
    assert not call.state.exists()
    again = call("down")
    assert (again.returncode, again.stdout) == (0, "no local cluster is running\n")
    answer = call("jobs")
    assert answer.returncode == 2
    assert "start one with 'raymill cluster up --local'" in answer.stderr
