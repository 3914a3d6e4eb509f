"""Speculative decoding in vLLM at concurrency 1: tokens/s with and without, and the same greedy tokens.

    python benchmarks/serving_speculation.py ngram    a model of 134 M parameters, FP32, built to copy its prompt: its
                                                      tokens run in cycles of 32, and prompts hold two rounds of one
    python benchmarks/serving_speculation.py draft    the same target in one long cycle; a draft of one layer and 128
                                                      channels whose table differs for a fifth of all tokens

Next-token tables are written into random weights (`serving_setup.by_table`), so that the share of tokens on which two
models agree is known: 0.8 here. A chain of drafts ends at the first that differs, so that of drafted tokens fewer are
accepted; both stand in the result. Engines take turns; each is started anew.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import harness
import serving_setup as setup
import torch

from serving import format_choice, hardware
from serving.engine import EngineSettings, Speculative
from serving.format_speed import Request

ROUNDS, NEW_TOKENS, PROMPTS = 3, 128, 4
SETTINGS = EngineSettings(dtype="float32", max_num_seqs=1, kv_cache_gib=0.5)
CYCLE, AGREEMENT = 32, 0.8
NGRAM_TOKENS, DRAFT_TOKENS = 8, 3


def compare(claim: str, target: str, speculative: Speculative, prompts: list[list[int]], **more: object) -> None:
    """Plain and speculative engines in turn on the same prompts."""
    with_drafts = SETTINGS.model_copy(update={"speculative": speculative})
    jobs = [
        setup.job(f"{name} {number}", target, chosen)
        for number in range(ROUNDS)
        for name, chosen in (("plain", SETTINGS), ("speculative", with_drafts))
    ]
    request = Request(jobs, (1,), new_tokens=NEW_TOKENS, rounds=3, prompts=prompts, keep_answers=True)
    found = {one.name: one for one in format_choice.run(request, SETTINGS.environment(), print)}
    failed = [f"{one.name}: {one.problem}" for one in found.values() if one.problem]
    if failed:
        sys.exit("\n".join(failed))
    plain = [found[f"plain {number}"].rates[1] for number in range(ROUNDS)]
    drafted = [found[f"speculative {number}"].rates[1] for number in range(ROUNDS)]
    ratios = [one / two for one, two in zip(drafted, plain, strict=True)]
    same = all(one.answers == found["plain 0"].answers for one in found.values())
    total = [sum(getattr(found[f"speculative {n}"], key) for n in range(ROUNDS)) for key in ("drafted", "accepted")]
    if not same:
        sys.exit(f"{claim}: the greedy tokens differ")
    harness.write(
        claim,
        statistics.median(ratios),
        statistics.median(drafted),
        statistics.median(plain),
        ratios,
        unit="output tokens/s, concurrency 1",
        hardware=hardware.describe(),
        same_greedy_tokens=same,
        drafted_tokens=total[0],
        accepted_share=total[1] / total[0],
        draft_tokens_in_a_step=speculative.tokens,
        **more,
    )


def ngram(folder: Path) -> None:
    table_V = setup.cycles(CYCLE)
    target = setup.save(setup.by_table(setup.llama(tied=False), table_V), folder / "target")
    prompts = [setup.walk(table_V, first, 2 * CYCLE) for first in range(0, 1000 * PROMPTS, 1000)]
    compare("serve.ngram_speedup", target, Speculative(method="ngram", tokens=NGRAM_TOKENS), prompts)


def draft(folder: Path) -> None:
    table_V = setup.cycles(setup.VOCABULARY)
    target = setup.save(setup.by_table(setup.llama(tied=False), table_V), folder / "target")
    differs = torch.randperm(setup.VOCABULARY, generator=torch.Generator().manual_seed(2))
    differs = differs[: round((1 - AGREEMENT) * setup.VOCABULARY)]
    other_V = table_V.clone()
    other_V[differs] = table_V[differs.roll(1)]
    small = setup.save(setup.by_table(setup.llama(1, 128, tied=False), other_V), folder / "draft")
    prompts = [setup.walk(table_V, first, setup.PROMPT_TOKENS) for first in range(0, 1000 * PROMPTS, 1000)]
    speculative = Speculative(method="draft_model", checkpoint=small, tokens=DRAFT_TOKENS)
    compare("serve.draft_speedup", target, speculative, prompts, agreement=AGREEMENT)


if __name__ == "__main__":
    setup.quiet()
    with tempfile.TemporaryDirectory() as scratch:
        {"ngram": ngram, "draft": draft}[sys.argv[1]](Path(scratch))
