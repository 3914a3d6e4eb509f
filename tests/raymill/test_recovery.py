"""Killed at any moment and run again, the recipe ends with the same documents and the same training, bit for bit."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core import manifest, storage
from tests.data_engine import corpora
from tests.killing import attempts
from tests.raymill import small_recipe
from training import metrics as training_log

STAGES = ("crawl", "build", "tokenize", "derive", "pretrain", "sft")
MORE = (
    "build.shard_bytes=100000",  # so that there is work to share out, and to lose
    "pretrain.checkpoint_every=20",
    "sft.checkpoint_every=5",
)
pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def result_of(output):
    """What must be equal: documents, tokens, examples, and of each training its losses and its weights."""
    documents = corpora.read_all(output / "build" / "documents")
    found = {"documents": {(row["id"], storage.digest_bytes([row["text"].encode()])) for row in documents}}
    assert len(found["documents"]) == len(documents)
    for stage in ("pretrain", "sft"):
        metrics = manifest.require(output / stage).metrics
        found[stage] = (metrics["training_loss"], metrics["validation_loss"])
        found[f"{stage} weights"] = storage.digest_file(str(output / stage / "checkpoint" / "model.safetensors"))
    return found


@dataclass(frozen=True)
class Undisturbed:
    output: Path
    result: dict[str, Any]
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return small_recipe.write_until("sft", tmp_path_factory.mktemp("recipe"))


def arguments(recipe, output):
    return ["run", str(recipe), "--address", "local", *small_recipe.overrides(output, *MORE, stages=STAGES)]


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """A run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with attempts(folder / "log") as start:
        run = start(*arguments(recipe, folder / "runs"))
        assert run.wait() == 0, run.said()[-3000:]
        run.wait_until_gone()
    seconds = {stage: manifest.require(folder / "runs" / stage).timings["total"] for stage in STAGES}
    return Undisturbed(folder / "runs", result_of(folder / "runs"), seconds)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_driver_killed_in_every_stage_changes_nothing(recipe, undisturbed, tmp_path, seed):
    """Each run begins at once, while what the killed one left may still be about."""
    moments = random.Random(seed)
    output = tmp_path / "runs"
    with attempts(tmp_path / "log") as start:
        killed = []
        for stage in STAGES:
            run = start(*arguments(recipe, output))
            if not run.wait_for(lambda at=output / stage: (at / "run.lock").exists()):
                assert run.wait() == 0, run.said()[-3000:]
                break
            moment = moments.uniform(0, undisturbed.seconds[stage])
            time.sleep(moment)
            ended = not run.running
            run.kill_driver()
            print(f"seed {seed}: {moment:.2f} s into {stage}: {'was over' if ended else 'killed'}")
            killed.append(run)
        last = start(*arguments(recipe, output))
        assert last.wait() == 0, last.said()[-3000:]
        for run in [*killed, last]:
            run.wait_until_gone()
    assert result_of(output) == undisturbed.result
    assert "resum" in last.said(), "no stage was interrupted and resumed"
    assert not [path for path in output.rglob("*") if path.name.endswith(".tmp")]


def shards(output):
    """How far `build` is: shards measured and shards written."""
    return sum(len(list((output / "build").glob(f"{folder}/*.parquet"))) for folder in ("measured", "documents"))


def steps(output):
    """How far `pretrain` is."""
    return len(training_log.read(output / "pretrain"))


@pytest.mark.parametrize("seed", [3, 4])
def test_killed_ray_workers_change_nothing(recipe, undisturbed, tmp_path, seed):
    """Tasks of Ray Data, workers and controller of Ray Train: what Ray does not mend, the next start does."""
    moments = random.Random(seed)
    output = tmp_path / "runs"
    with attempts(tmp_path / "log") as start:
        run = start(*arguments(recipe, output))
        for progress, end in ((shards, 2 * shards(undisturbed.output) - 2), (steps, steps(undisturbed.output) - 10)):
            moment = moments.randrange(1, end)
            killed = run.kill_worker_when(lambda at=moment, of=progress: of(output) >= at, moments)
            print(f"seed {seed}: {moment} of {end} {progress.__name__}: killed {killed}")
            assert killed, run.said()[-3000:]
        codes = [run.wait()]
        while codes[-1] != 0 and len(codes) < 3:
            run = start(*arguments(recipe, output))
            codes.append(run.wait())
        print(f"seed {seed}: exit codes {codes}")
        assert codes[-1] == 0, run.said()[-3000:]
        run.wait_until_gone()
    assert result_of(output) == undisturbed.result
