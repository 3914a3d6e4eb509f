"""Our DPO runs against TRL's trainer: the same model, pairs, order and hyper-parameters, loss by loss over 20 steps."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from core import checkpoint
from tests.training import fixtures
from tests.training.test_stages import dpo_config
from training import dpo, metrics
from training.chat import ChatEncoder
from training.examples import preference_pairs
from training.order import samples

STEPS, PAIRS, RATE, BETA = 20, 4, 2e-3, 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return fixtures.write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    return fixtures.write_preferences(tmp_path_factory.mktemp("preferences"))


class Reference(DPOTrainer):
    """TRL's trainer on ready token ids, in the given order; `losses` holds one unrounded loss per micro-batch."""

    def _prepare_dataset(self, dataset, *_, **__):
        self.losses = []
        return dataset

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


def as_trl_has_it(unit):
    """Prompt and answers of a pair as token ids; labels are those of the answers."""
    chosen, rejected = unit
    first = int(np.argmax(chosen.labels >= 0)) + 1
    answers = {f"{n}_ids": s.labels[s.labels >= 0].tolist() for n, s in (("chosen", chosen), ("rejected", rejected))}
    return {"prompt_ids": chosen.tokens[:first].tolist(), **answers}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
        ({"loss": "ipo", "length_normalized": True}, {"loss_type": ["ipo"]}),
    ],
    ids=["DPO", "RPO", "robust", "IPO of means"],
)
def test_losses_are_those_of_trl(base, preferences, tmp_path, ours, theirs):
    """One pair per micro-batch there: TRL's term for the chosen answer is the mean over all tokens of a micro-batch."""
    config = dpo_config(
        tmp_path / "run",
        base,
        preferences,
        method="full",
        steps=STEPS,
        batch_size=PAIRS,
        preference={"beta": BETA, **ours},
        optimizer={"learning_rate": RATE, "weight_decay": 0.0},
        schedule={"warmup": 0, "decay": 0},
    )
    dpo.STAGE.execute(config)
    losses = [row["loss"] for row in metrics.read(tmp_path / "run")]

    tokenizer = checkpoint.load_tokenizer(base)
    units = preference_pairs(config.preferences, ChatEncoder(tokenizer), config.max_length).units
    rows = [as_trl_has_it(units[i]) for i in samples(len(units), config.seed, 0, STEPS * PAIRS)]
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=PAIRS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=BETA,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **theirs,
    )
    model, reference = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) for _ in range(2))
    trainer = Reference(model, reference, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    expected = np.array(trainer.losses).reshape(STEPS, PAIRS).sum(1)
    assert np.ptp(losses) > 0.02, "the weights hardly moved, so nothing was compared"
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)
