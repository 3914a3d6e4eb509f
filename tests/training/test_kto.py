import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core import checkpoint
from core.config import parse
from core.errors import UserError
from tests.training.test_preference import slow_log_probability, tune
from training.chat import ChatEncoder
from training.dpo import DpoConfig
from training.examples import labelled_answers
from training.kto import Answers, Kto, kto_loss, ranked_right
from training.order import samples
from training.precision import resolve
from training.preference import PreferenceConfig
from training.tuning import Tuned
from training.world import World

FP32 = resolve("fp32")


@pytest.mark.parametrize(
    ("ratio", "desirable", "z0", "weights", "value"),
    [
        (0.0, 1, 0.0, (1, 1), 0.5),
        (0.0, 0, 0.0, (1, 1), 0.5),
        (10.0, 1, 0.0, (1, 1), 0.268941),  # 1 - sigmoid(1)
        (10.0, 0, 0.0, (1, 1), 0.731059),  # 1 - sigmoid(-1)
        (-10.0, 0, 0.0, (1, 1), 0.268941),
        (10.0, 1, 5.0, (1, 1), 0.377541),  # 1 - sigmoid(0.5)
        (10.0, 0, 5.0, (1, 1), 0.622459),
        (10.0, 1, 0.0, (1.5, 1), 0.403412),
        (10.0, 0, 0.0, (1.5, 2), 1.462117),
        (1e5, 0, 0.0, (1, 1), 1.0),
        (-1e5, 1, 0.0, (1, 1), 1.0),
    ],
)
def test_closed_form_values(ratio, desirable, z0, weights, value):
    """With beta 0.1."""
    config = PreferenceConfig(loss="kto", beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1])
    found = kto_loss(torch.tensor([ratio]), torch.tensor([float(desirable)]), z0, config)
    assert float(found) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("desirable", [1.0, 0.0])
def test_slope_at_the_reference(desirable):
    """-beta / 4 towards the answer, or away from it; none left where the loss is saturated (section 4.3)."""
    config = PreferenceConfig(loss="kto", beta=0.1)
    for ratio, slope in ((0.0, 0.025), (1e4, 0.0), (-1e4, 0.0)):
        log_ratio = torch.tensor([ratio], requires_grad=True)
        kto_loss(log_ratio, torch.tensor([desirable]), 0.0, config).sum().backward()
        assert log_ratio.grad.item() == pytest.approx(-slope if desirable else slope, abs=1e-9)


def test_the_share_ranked_right_counts_pairs_and_ties():
    assert ranked_right(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0])) == pytest.approx(3.5 / 4)
    assert ranked_right(torch.zeros(3), torch.zeros(2)) == 0.5


def settings(base, preferences, tmp_path, **changes):
    return tune(base, preferences, tmp_path, preference={"loss": "kto", "beta": 0.3}, **changes)


@pytest.fixture
def table(preferences, tokenizer):
    found = labelled_answers(str(preferences / "train.parquet"), ChatEncoder(tokenizer), 64, seed=0)
    found.units, found.rows = found.units[:10], found.rows[:10]
    return found


def moved_answers(config, table, world):
    """(answers with a reference, their model, which has left it)."""
    tuned = Tuned(config, world)
    answers = Answers(table, tuned, world)
    answers.precision = FP32
    original = checkpoint.load_model(config.checkpoint)
    with torch.no_grad():
        known = [[float(slow_log_probability(original, s)) for s in unit] for unit in table.units]
        for name, parameter in tuned.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    answers.reference_A2 = torch.tensor(known)
    return answers, tuned.model


@pytest.fixture
def moved(base, preferences, tmp_path, table):
    return lambda micro_batch=2: moved_answers(
        settings(base, preferences, tmp_path, micro_batch=micro_batch), table, World()
    )


def test_loss_divergence_and_metrics_equal_a_slow_computation(moved, table):
    """Answer by answer with the logits of transformers, z0 from the mismatched answers of the whole step."""
    answers, model = moved()
    config = PreferenceConfig(loss="kto", beta=0.3)
    objective = Kto(config)
    model.train()
    sums = dict.fromkeys(("loss", "weight", *objective.metrics), 0.0)
    for _, batch in answers.micro_batches(0, 10, 0, 1):
        part = objective(model, batch, FP32)
        for name, value in {"loss": float(part.loss.detach()), "weight": part.weight, **part.metrics}.items():
            sums[name] += value
    plain = model.get_base_model().eval()
    with torch.no_grad():
        ours = [[float(slow_log_probability(plain, s)) for s in unit] for unit in table.units]
    ratios = torch.tensor(ours) - answers.reference_A2
    z0 = max(0.0, float(ratios[:, 1].mean()))
    expected = dict.fromkeys(sums, 0.0)
    for ratio, row in zip(ratios[:, 0].tolist(), table.rows, strict=True):
        sign = 1 if row["desirable"] else -1
        expected["loss"] += 1 - 1 / (1 + math.exp(-0.3 * sign * (ratio - z0)))
        expected["weight"] += 1
        expected["kl"] += z0
        expected["signed_reward"] += 0.3 * sign * ratio
        expected["reward_accuracy"] += sign * (ratio - z0) > 0
    assert abs(float(ratios[:, 1].mean())) > 0.01, "the policy has not moved"
    assert sums == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(moved):
    """The estimate of z0 is that of the step, so a micro-batch is no unit of the loss."""
    found = []
    for micro_batch in (1, 2, 8):
        answers, model = moved(micro_batch)
        answers.reference_A2[:, 1] -= 2.0  # a divergence well above zero
        objective = Kto(PreferenceConfig(loss="kto", beta=0.3))
        for _, batch in answers.micro_batches(0, 10, 0, 1):
            objective(model, batch, FP32).loss.backward()
        assert answers.z0 > 0.5
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) < 1e-6


def _step_over_an_epoch_border(rank, size, store, config, table, found):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    answers, _ = moved_answers(config, table, World(rank, size))
    answers.reference_A2[:, 1] -= 2.0
    for _ in answers.micro_batches(5, 10, rank, size):
        pass
    found[rank] = answers.z0
    dist.destroy_process_group()


@pytest.mark.slow
def test_an_answer_that_comes_twice_in_a_step_counts_twice_on_any_number_of_workers(
    moved, base, preferences, tmp_path, table
):
    """Over the end of an epoch: its two copies may lie on different ranks, whose sum is no log-probability."""
    alone, model = moved()
    alone.reference_A2[:, 1] -= 2.0
    chosen = samples(10, 0, 5, 10)
    assert len(set(chosen)) < len(chosen)
    with torch.no_grad():
        log_p = [float(slow_log_probability(model.get_base_model().eval(), table.units[n][1])) for n in chosen]
    expected = max(0.0, float((torch.tensor(log_p) - alone.reference_A2[chosen, 1]).mean()))
    assert alone.divergence(chosen) == pytest.approx(expected, rel=1e-4)
    config = settings(base, preferences, tmp_path, micro_batch=2)
    found = mp.Manager().dict()
    mp.spawn(_step_over_an_epoch_border, (2, str(tmp_path / "store"), config, table, found), nprocs=2)
    assert dict(found) == pytest.approx({0: expected, 1: expected}, rel=1e-4)


def test_settings_that_do_not_go_with_kto_are_refused(base, preferences, tmp_path):
    plain = tune(base, preferences, tmp_path).model_dump()
    for changes, complaint in (
        ({"preference": {"loss": "kto", "sft_weight": 0.1}}, "go with losses of pairs"),
        ({"preference": {"loss": "kto", "label_smoothing": 0.1}}, "goes with loss sigmoid or robust"),
        ({"preference": {"desirable_weight": 2.0}}, "go with loss kto, not with sigmoid"),
        ({"preference": {"loss": "kto"}, "reference": "adapter_off"}, "takes a precomputed reference"),
    ):
        with pytest.raises(UserError, match=complaint):
            parse(DpoConfig, plain | changes, "kto.yaml")
