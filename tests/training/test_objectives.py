import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig

from core import checkpoint
from training.batch import Segment, collate
from training.linear_cross_entropy import IGNORED
from training.model import count_parameters, flops_per_token, losses
from training.objectives import NextToken
from training.precision import resolve
from training.validation import evaluate
from training.world import World

FP32 = resolve("fp32")
SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
SMALL |= {"num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.3, "bos_token_id": 1}
CONFIGS = {
    "gemma2: capped logits": Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=5.0),
    "cohere: scaled logits": CohereConfig(**SMALL, logit_scale=0.25),
    "granite: divided logits": GraniteConfig(**SMALL, logits_scaling=4.0),
    "gpt2: learned positions": GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3),
}


def segments(count=5, vocabulary=96, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Segment.from_ids(rng.integers(2, vocabulary, size=n), rng.random(n) < 0.6) for n in rng.integers(4, 15, count)
    ]


def slow(model, parts):
    """Each segment alone through the plain model: the summed loss and the number of labels."""
    total = 0.0
    for part in parts:
        logits = model(input_ids=torch.tensor(part.tokens)[None], use_cache=False).logits[0]
        total += cross_entropy(logits.float(), torch.tensor(part.labels), reduction="sum", ignore_index=IGNORED)
    return total, sum(part.learned for part in parts)


def check_against_each_alone(model, vocabulary):
    model.eval()
    parts = segments(vocabulary=vocabulary)
    batch = collate([parts[:3], parts[3:]], padding=0)
    sums = NextToken()(model, batch, FP32)
    expected, weight = slow(model, parts)
    assert sums.weight == weight
    assert sums.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    per_token = losses(model, batch, FP32, per_token=True)
    assert per_token.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not per_token[batch.labels.flatten() == IGNORED].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_of_packed_segments_is_that_of_each_alone(name):
    """Also where the output head is more than one product, which the chunked loss must leave to the model."""
    torch.manual_seed(0)
    check_against_each_alone(AutoModelForCausalLM.from_config(CONFIGS[name]), 96)


def test_loss_of_our_own_checkpoint_is_that_of_each_alone(base):
    check_against_each_alone(checkpoint.load_model(base), 512)


def test_gradient_of_the_sum_is_that_of_transformers(base):
    model = checkpoint.load_model(base)
    parts = segments(vocabulary=512)

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    ours = gradient(NextToken()(model, collate([parts], 0), FP32).loss)
    theirs = gradient(slow(model, parts)[0])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_held_out_loss_weighs_tokens_not_batches(base):
    model = checkpoint.load_model(base)
    model.train()
    parts = segments(7, vocabulary=512)
    batches = [collate([parts[:1]], 0), collate([parts[1:6], parts[6:]], 0)]
    found = evaluate(model, NextToken(), batches, World(), FP32)
    expected, weight = slow(model, parts)
    assert found["loss"] == pytest.approx(expected.item() / weight, rel=1e-5)
    assert found["weight"] == weight
    assert model.training, "training goes on after an evaluation"


def test_operations_per_token_by_hand(base):
    """Tied: the embedding is the head. Per layer 4 d^2 + 3 d f, head V d; 6 of each, and 12 L d T of attention."""
    model = checkpoint.load_model(base)
    d, f, vocabulary, layers, length = 32, 64, 512, 2, 100
    norms = (2 * layers + 1) * d
    matrices = layers * (4 * d * d + 3 * d * f) + vocabulary * d
    assert count_parameters(model) == (matrices + norms, matrices + norms)
    assert flops_per_token(model, length) == 6 * (matrices + norms) + 12 * layers * d * length
