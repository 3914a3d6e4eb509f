import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy

from core.errors import RaymillError
from tests.training import runs
from training import metrics
from training.linear_cross_entropy import IGNORED
from training.objectives import NextToken, Sums
from training.optimizer import parameter_groups
from training.schedule import factor
from training.trainer import step_seed
from training.world import World

CONTRACT = ("step", "tokens", "loss", "lr", "grad_norm", "step_seconds", "data_seconds", "tokens_per_second", "mfu")
CONTRACT += ("memory_gib", "skipped", "validation_loss")
KINDS = ["documents", "chats"]


def samples_of(kind, inputs, settings):
    tokens, chats, base = inputs
    return runs.documents(tokens, settings) if kind == "documents" else runs.chats(chats, base, settings)


@pytest.fixture
def inputs(tokens, conversations, base):
    return tokens, conversations, base


def first_gradient(directory, inputs, kind, micro_batch, world=None):
    """Gradient of the mean loss of the first step, as the trainer exchanged and normalised it."""
    settings = runs.config(directory, micro_batch=micro_batch, clip_norm=1e9)
    trainer = runs.trainer(directory, settings, samples_of(kind, inputs, settings), runs.model(), world, steps=1)
    trainer.run()
    return trainer.gradient.vector


def true_gradient(inputs, kind):
    """torch's own mean cross-entropy over all labels of the step, each segment alone, in FP64."""
    settings = runs.config(Path("unused"))
    model = runs.model().double()
    logits, labels = [], []
    for _, batch in samples_of(kind, inputs, settings).micro_batches(0, settings.batch_size, 0, 1):
        for row in range(len(batch.tokens)):
            for number in set(batch.segments[row].tolist()) - {0}:
                here = batch.segments[row] == number
                logits.append(model(input_ids=batch.tokens[row][here][None], use_cache=False).logits[0])
                labels.append(batch.labels[row][here])
    cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=IGNORED).backward()
    order = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    return torch.cat([parameter.grad.flatten() for parameter in order])


def off(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradient_equals_one_large_batch(tmp_path, inputs, kind):
    """Mean-of-means is off by 10 to 90 % when micro-batches hold unequal numbers of labels (transformers#35203)."""
    whole = first_gradient(tmp_path / "8", inputs, kind, 8)
    for micro_batch in (4, 2, 1):
        assert off(first_gradient(tmp_path / str(micro_batch), inputs, kind, micro_batch), whole) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_mean_loss(tmp_path, inputs, kind):
    assert off(first_gradient(tmp_path, inputs, kind, 2), true_gradient(inputs, kind)) < 1e-5


def _rank(rank, size, store, directory, inputs, kinds):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    world = World(rank, size)
    for kind in kinds:
        for micro_batch in (4, 2):
            folder = Path(directory) / f"{kind}-{micro_batch}"
            found = first_gradient(folder, inputs, kind, micro_batch, world)
            torch.save(found, folder / f"gradient-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_the_gradient_and_the_log_of_one(tmp_path, inputs):
    mp.spawn(_rank, (2, str(tmp_path / "store"), str(tmp_path), inputs, KINDS), nprocs=2)
    for kind in KINDS:
        for micro_batch in (4, 2):
            folder = tmp_path / f"{kind}-{micro_batch}"
            first, second = (torch.load(folder / f"gradient-{rank}.pt") for rank in (0, 1))
            assert torch.equal(first, second), "ranks that differ drift apart"
            alone = first_gradient(tmp_path / f"alone-{kind}-{micro_batch}", inputs, kind, micro_batch)
            assert off(first, alone) < 1e-6
            (ours,) = metrics.read(folder)
            (theirs,) = metrics.read(tmp_path / f"alone-{kind}-{micro_batch}")
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
            assert (ours["tokens"], ours["samples"]) == (theirs["tokens"], theirs["samples"])


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_gradients_over_the_limit_are_scaled_to_it_and_logged_unscaled(tmp_path, inputs, clip):
    settings = runs.config(tmp_path, clip_norm=clip)
    trainer = runs.trainer(tmp_path, settings, runs.documents(inputs[0], settings), runs.model(), steps=1)
    trainer.run()
    unclipped = first_gradient(tmp_path / "free", inputs, "documents", 4)
    (row,) = metrics.read(tmp_path)
    assert row["grad_norm"] == pytest.approx(float(unclipped.norm()), rel=1e-5)
    expected = unclipped * min(1.0, clip / float(unclipped.norm()))
    assert off(trainer.gradient.vector, expected) < 1e-4


def test_the_log_holds_the_contract_and_true_values(tmp_path, inputs):
    settings = runs.config(tmp_path)
    trainer = runs.trainer(
        tmp_path,
        settings,
        runs.chats(inputs[1], inputs[2], settings),
        runs.model(),
        evaluate=lambda: {"validation_loss": 1.5},
        evaluate_every=4,
    )
    last = trainer.run()
    rows = metrics.read(tmp_path)
    assert rows[-1] == last
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["validation_loss"] for row in rows] == [None, None, None, 1.5, None, 1.5]
    seen = 0
    for step, row in enumerate(rows):
        assert set(CONTRACT) <= set(row)
        step_batches = runs.chats(inputs[1], inputs[2], settings).micro_batches(step * 8, 8, 0, 1)
        seen += sum(int((batch.segments > 0).sum()) for _, batch in step_batches)
        assert row["tokens"] == seen
        assert row["samples"] == (step + 1) * 8
        assert row["total_steps"] == 6
        assert row["lr"] == settings.optimizer.learning_rate * factor(step, 6, settings.schedule)
        assert row["mfu"] is None or 0 < row["mfu"] < 1
    assert rows[0]["loss"] == pytest.approx(math.log(512), rel=0.02), "a fresh model is close to uniform"
    assert rows[-1]["loss"] < rows[0]["loss"]


class Poisoned(NextToken):
    """The loss or the gradient of some micro-batches is not finite."""

    def __init__(self, calls, what):
        self.calls, self.what, self.count = calls, what, 0

    def __call__(self, model, batch, precision):
        sums = super().__call__(model, batch, precision)
        self.count += 1
        if self.count - 1 not in self.calls:
            return sums
        if self.what == "loss":
            return Sums(sums.loss * math.nan, sums.weight)
        parameter = model.get_input_embeddings().weight
        return Sums(sums.loss + (parameter - parameter.detach()).abs().sqrt().sum(), sums.weight)  # slope inf at 0


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, inputs, what):
    """Two micro-batches a step: one bad half spoils step 3 alone."""
    settings = runs.config(tmp_path)
    model = runs.model()
    seen = []

    def copied():
        moments = [trainer.optimizer.state[p][key] for p in model.parameters() for key in ("exp_avg", "exp_avg_sq")]
        steps = [trainer.optimizer.state[p]["step"] for p in model.parameters()]
        return runs.weights(model), torch.cat([m.flatten() for m in moments]), torch.tensor(steps)

    trainer = runs.trainer(
        tmp_path,
        settings,
        runs.documents(inputs[0], settings),
        model,
        objective=Poisoned({5}, what),
        evaluate=lambda: seen.append(copied()) or {"validation_loss": 0.0},
        evaluate_every=1,
    )
    trainer.run()
    rows = metrics.read(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert [row["grad_norm"] is None for row in rows] == [False, False, True, False, False, False]
    assert (rows[2]["loss"] is None) == (what == "loss")
    for kind in zip(*seen, strict=True):  # weights, moments, the optimizer's own count of steps
        assert [not torch.equal(before, after) for before, after in pairwise(kind)] == [True, False, True, True, True]
        assert all(values.isfinite().all() for values in kind)
    for line in (tmp_path / metrics.METRICS).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path, inputs):
    settings = runs.config(tmp_path, max_skipped=2)
    objective = Poisoned(range(2, 100), "loss")
    trainer = runs.trainer(
        tmp_path, settings, runs.documents(inputs[0], settings), runs.model(), objective=objective, steps=50
    )
    with pytest.raises(RaymillError, match=r"3 steps had a loss or gradient that is not finite \(max_skipped: 2\)"):
        trainer.run()
    assert trainer.objective.count == 8, "the fourth step is the third bad one"


def test_seeds_of_micro_batches_are_all_different():
    seeds = [step_seed(seed, step, number) for seed in range(3) for step in range(20) for number in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
