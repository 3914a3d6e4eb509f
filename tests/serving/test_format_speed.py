"""The measuring process: vLLM itself, with the same answers as transformers and figures that can be."""

import pytest
import torch
from transformers import AutoModelForCausalLM


@pytest.mark.slow
def test_the_engine_that_is_timed_gives_the_greedy_tokens_of_transformers(vllm_asked):
    model = AutoModelForCausalLM.from_pretrained(vllm_asked["checkpoint"], dtype=torch.float32)
    prompts_BT = torch.tensor(vllm_asked["prompts"])
    with torch.inference_mode():
        written_BT = model.generate(
            prompts_BT, attention_mask=torch.ones_like(prompts_BT), max_new_tokens=8, do_sample=False, eos_token_id=None
        )
    speed = vllm_asked["speeds"]["float32"]
    assert speed["problem"] is None
    written = written_BT[:, prompts_BT.shape[1] :].tolist()
    # Prompts are taken in turn: one warms up, one is timed, two warm up, two are timed together.
    assert speed["answers"] == [written[1], written[1], written[2]]


@pytest.mark.slow
def test_every_concurrency_has_a_rate_and_the_weights_have_a_size(vllm_asked):
    speed = vllm_asked["speeds"]["float32"]
    assert set(speed["rates"]) == {"1", "2"}
    assert all(rate > 0 for rate in speed["rates"].values())
    assert speed["seconds"] > 0


@pytest.mark.slow
def test_an_eagle3_head_drafts_and_the_greedy_tokens_stay(vllm_asked):
    plain, drafting = vllm_asked["speeds"]["float32"], vllm_asked["speeds"]["eagle3"]
    assert drafting["problem"] is None
    assert drafting["drafted"] > 0
    assert drafting["answers"] == plain["answers"]
