"""What the front door costs: ours beside bare vLLM, or beside stock ray.serve.llm, each with an engine of its own.
`python benchmarks/serving_door.py bare|stock`

A Llama of 100 M random parameters, FP32; prompts of 64 random tokens, so nothing is in a prefix cache. Both servers are
up at the same time and are asked in turn, round by round, so a machine that becomes slower becomes slower for both.
Each engine has one OpenMP thread: two of them wait for one another on two cores that anything else uses, and the time
of a step then says more about that than about the door.
"""

import argparse
import contextlib
import signal
import statistics
import sys
import time

import harness

harness.one_thread()  # this process only asks; each engine gets its threads from its own environment

import serving_sides as sides  # noqa: E402
from serving_sides import Side  # noqa: E402

from serving.engine import EngineSettings  # noqa: E402
from serving.load_statistics import Level  # noqa: E402

SETTINGS = EngineSettings(dtype="float32", max_num_seqs=32, kv_cache_gib=1.0, max_model_len=512, threads=1)
_LONGEST_SECONDS = 170.0
LEVELS = {1: (16, 8), 8: (32, 8), 32: (48, 24)}
"""Concurrency: requests, tokens of each answer."""


def compare(one: Side, other: Side, rounds: int) -> list[tuple[dict[int, Level], dict[int, Level]]]:
    for side in (one, other):
        side.ready()
        sides.press(side, 8, 16, 4, 99)
    found: list[tuple[dict[int, Level], dict[int, Level]]] = []
    began = time.monotonic()
    for number in range(rounds):
        if found and time.monotonic() - began > _LONGEST_SECONDS:
            break
        pair: tuple[dict[int, Level], dict[int, Level]] = ({}, {})
        for concurrency, (requests, tokens) in LEVELS.items():
            order = [(0, one), (1, other)] if number % 2 == 0 else [(1, other), (0, one)]
            for place, side in order:
                pair[place][concurrency] = sides.press(side, concurrency, requests, tokens, number)
            mine, theirs = (side[concurrency] for side in pair)
            print(
                f"round {number} concurrency {concurrency:2}: ttft p50 {mine.ttft_ms['p50']:.1f} / "
                f"{theirs.ttft_ms['p50']:.1f} ms, p99 {mine.ttft_ms['p99']:.1f} / {theirs.ttft_ms['p99']:.1f}, "
                f"{mine.output_tokens_per_second:.1f} / {theirs.output_tokens_per_second:.1f} tokens/s",
                flush=True,
            )
        found.append(pair)
    return found


def shown(pairs: list[tuple[dict[int, Level], dict[int, Level]]], place: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds of one side."""
    return {
        str(concurrency): {
            "ttft_ms_p50": statistics.median(pair[place][concurrency].ttft_ms["p50"] for pair in pairs),
            "tpot_ms_p50": statistics.median(pair[place][concurrency].tpot_ms["p50"] for pair in pairs),
            "output_tokens_per_second": statistics.median(
                pair[place][concurrency].output_tokens_per_second for pair in pairs
            ),
        }
        for concurrency in LEVELS
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("peer", choices=["bare", "stock"])
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever stops it wants the servers stopped too
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(sides.scratch())
        checkpoint = sides.random_model(folder / "model")
        peer = stack.enter_context(getattr(sides, given.peer)(checkpoint, SETTINGS, folder))
        mine = stack.enter_context(sides.ours(checkpoint, SETTINGS, folder))
        pairs = compare(mine, peer, given.rounds)
    unit = "by concurrency, medians over the rounds; 64 prompt tokens, 8, 8 and 24 output tokens"
    ours, theirs = shown(pairs, 0), shown(pairs, 1)
    if given.peer == "bare":
        added = [one[1].ttft_ms["p50"] - two[1].ttft_ms["p50"] for one, two in pairs]
        added8 = [one[8].ttft_ms["p50"] - two[8].ttft_ms["p50"] for one, two in pairs]
        shares = [one[32].output_tokens_per_second / two[32].output_tokens_per_second for one, two in pairs]
        more = {"unit": unit, "overhead_ms_c8": statistics.median(added8)}
        harness.write("serve.ttft_overhead_ms_c1", statistics.median(added), ours, theirs, added, **more)
        harness.write("serve.throughput_vs_bare", statistics.median(shares), ours, theirs, shares, unit=unit)
        return
    ratios = [one[1].ttft_ms["p50"] / two[1].ttft_ms["p50"] for one, two in pairs]
    cells = {
        f"{name} at {concurrency}": ours[concurrency][name] / theirs[concurrency][name]
        for concurrency in ours
        for name in ours[concurrency]
    }
    harness.write(
        "serve.ttft_vs_ray_serve_llm", statistics.median(ratios), ours, theirs, ratios, unit=unit, ours_by_theirs=cells
    )


if __name__ == "__main__":
    main()
