"""Two ranks that hold half of everything train as two that hold all of it do."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core import checkpoint
from core.errors import UserError
from tests.training import runs
from training import lora, metrics, saved_steps
from training.objectives import NextToken
from training.validation import evaluate
from training.world import World

STEPS = 6
WAYS = {
    "ddp": {},
    "fsdp": {"parallel": "fsdp", "activation_checkpointing": "full"},
    "muon": {"optimizer": {"method": "muon"}},
    "muon, fsdp": {"parallel": "fsdp", "optimizer": {"method": "muon"}},
    "lora": {},
    "lora, fsdp": {"parallel": "fsdp"},
}
"""What is trained, and how. Micro-batches of 3, so that the ranks have two of them and one."""


def _train(directory, way, inputs, world, steps=STEPS, **changes):
    tokens, base = inputs
    settings = {"micro_batch": 3, "ema_decay": 0.9, "clip_norm": 0.5, "logs": []}
    config = runs.config(Path(directory), **settings | WAYS[way] | changes)
    model = runs.model(dropout=0.1)
    if "lora" in way:
        model = lora.attach(checkpoint.load_model(base), lora.LoraSettings(rank=2), seed=0)
    samples = runs.documents(tokens, config)
    held_out = [samples.documents.sequences(0, 2) for _ in range(3)]  # an odd number: one rank has one more

    def validate():
        return {"validation_loss": evaluate(model, NextToken(), held_out, world, trainer.precision)["loss"]}

    trainer = runs.trainer(
        Path(directory), config, samples, model, world, steps=steps, evaluate=validate, evaluate_every=3
    )
    trainer.run()
    return model


def _rank(rank, size, folder, inputs):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    world = World(rank, size)
    for way in WAYS:
        directory = f"{folder}/{way}"
        model = _train(directory, way, inputs, world)
        torch.save(runs.weights(model), f"{directory}/weights-{rank}.pt")
    model(input_ids=torch.zeros(1, 4, dtype=torch.int64))  # a plain model again, for each rank alone
    # What one way has written, it goes on from, and the other as well.
    for before, way in (("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")):
        directory = f"{folder}/{before} {way}"
        if rank == 0:
            _interrupted(Path(folder) / before, Path(directory))
        world.barrier()
        _train(directory, way, inputs, world)
    dist.destroy_process_group()


def _interrupted(run, copy):
    """The run as it was after step 3."""
    shutil.copytree(run, copy)
    for later in saved_steps.steps(copy)[3:]:
        shutil.rmtree(later)


@pytest.fixture(scope="module")
def trained(tokens, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(_rank, (2, str(folder), (tokens, base)), nprocs=2)
    return folder


def _columns(folder, names=("loss", "grad_norm", "validation_loss")):
    rows = metrics.read(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [[row[name] for row in rows if row[name] is not None] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("left, right", [("fsdp", "ddp"), ("lora, fsdp", "lora")])
def test_shards_train_as_replicas_do(trained, left, right):
    """Losses, norms before clipping, validation of the average, final weights: to rounding."""
    for ours, theirs in zip(_columns(trained / left), _columns(trained / right), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-6)
    ours, again = (torch.load(trained / left / f"weights-{rank}.pt") for rank in (0, 1))
    assert torch.equal(ours, again), "every rank has the whole model in the end"
    theirs = torch.load(trained / right / "weights-0.pt")
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.slow
def test_muon_of_shards_orthogonalises_whole_matrices(trained):
    for ours, theirs in zip(_columns(trained / "muon, fsdp"), _columns(trained / "muon"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # Newton-Schulz runs in BF16


@pytest.mark.slow
def test_resumed_shards_equal_uninterrupted_ones(trained):
    assert _columns(trained / "fsdp fsdp") == _columns(trained / "fsdp")
    saved = saved_steps.steps(trained / "fsdp fsdp")[-1]
    assert (saved / ".metadata").is_file()
    assert len(list(saved.glob("*.distcp"))) == 2, "each rank writes its own"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["fsdp ddp", "ddp fsdp"])
def test_either_way_goes_on_from_what_the_other_has_written(trained, folder):
    for ours, theirs in zip(_columns(trained / folder), _columns(trained / "ddp"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-6)


@pytest.mark.slow
def test_one_process_goes_on_from_shards(trained, tokens, base, tmp_path):
    """Fewer workers than have written them: none of the old ones is needed."""
    _interrupted(trained / "fsdp", tmp_path / "alone")
    _train(tmp_path / "alone", "ddp", (tokens, base), World())
    for ours, theirs in zip(_columns(tmp_path / "alone"), _columns(trained / "ddp"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_methods_that_call_the_model_unevenly_are_refused(tokens, tmp_path):
    """Ranks would wait for each other for ever."""

    class Preference(NextToken):
        shards = False

    config = runs.config(tmp_path, parallel="fsdp")
    with pytest.raises(UserError, match="parallel: fsdp is for pretraining and supervised"):
        runs.trainer(
            tmp_path, config, runs.documents(tokens, config), runs.model(), World(0, 2), objective=Preference()
        )
