"""What the front door costs: ours beside bare vLLM and stock ray.serve.llm, each with an engine of its own.
`python benchmarks/serving_door.py bare stock`

A Llama of 100 M random parameters, FP32; prompts of 64 random tokens, so nothing is in a prefix cache. The servers are
up at the same time and are asked in turn, round by round, so a machine that becomes slower becomes slower for all.
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
UNIT = "by concurrency, medians over the rounds; 64 prompt tokens, 8, 8 and 24 output tokens"
_LONGEST_SECONDS = 100.0
LEVELS = {1: (16, 8), 8: (32, 8), 32: (48, 24)}
"""Concurrency: requests, tokens of each answer."""


Round = dict[str, dict[int, Level]]


def compare(servers: dict[str, Side], rounds: int) -> list[Round]:
    """By server and concurrency, round by round; each round begins with another server."""
    for side in servers.values():
        side.ready()
        sides.press(side, 8, 16, 4, 99)
    found: list[Round] = []
    began = time.monotonic()
    for number in range(rounds):
        if found and time.monotonic() - began > _LONGEST_SECONDS:
            break
        names = list(servers)
        order = names[number % len(names) :] + names[: number % len(names)]
        this: Round = {name: {} for name in names}
        for concurrency, (requests, tokens) in LEVELS.items():
            for name in order:
                level = sides.press(servers[name], concurrency, requests, tokens, number)
                this[name][concurrency] = level
                print(
                    f"round {number} concurrency {concurrency:2} {name:5}: ttft p50 {level.ttft_ms['p50']:.1f} ms, "
                    f"p99 {level.ttft_ms['p99']:.1f} ms, {level.output_tokens_per_second:.1f} tokens/s",
                    flush=True,
                )
        found.append(this)
    return found


def shown(rounds: list[Round], name: str) -> dict[str, dict[str, float]]:
    """Medians over the rounds of one server."""
    return {
        str(concurrency): {
            "ttft_ms_p50": statistics.median(one[name][concurrency].ttft_ms["p50"] for one in rounds),
            "tpot_ms_p50": statistics.median(one[name][concurrency].tpot_ms["p50"] for one in rounds),
            "output_tokens_per_second": statistics.median(
                one[name][concurrency].output_tokens_per_second for one in rounds
            ),
        }
        for concurrency in LEVELS
    }


def write_bare(rounds: list[Round]) -> None:
    added = {n: [one["ours"][n].ttft_ms["p50"] - one["bare"][n].ttft_ms["p50"] for one in rounds] for n in LEVELS}
    rates = [[one[name][32].output_tokens_per_second for name in ("ours", "bare")] for one in rounds]
    shares = [ours / theirs for ours, theirs in rates]
    ours, theirs = shown(rounds, "ours"), shown(rounds, "bare")
    more = {"unit": UNIT, "overhead_ms_c8": statistics.median(added[8])}
    harness.write("serve.ttft_overhead_ms_c1", statistics.median(added[1]), ours, theirs, added[1], **more)
    harness.write("serve.throughput_vs_bare", statistics.median(shares), ours, theirs, shares, unit=UNIT)


def write_stock(rounds: list[Round]) -> None:
    ratios = [one["ours"][1].ttft_ms["p50"] / one["stock"][1].ttft_ms["p50"] for one in rounds]
    ours, theirs = shown(rounds, "ours"), shown(rounds, "stock")
    cells = {f"{name} at {n}": value / theirs[n][name] for n, found in ours.items() for name, value in found.items()}
    more = {"unit": UNIT, "ours_by_theirs": cells}
    harness.write("serve.ttft_vs_ray_serve_llm", statistics.median(ratios), ours, theirs, ratios, **more)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("peers", choices=["bare", "stock"], nargs="+")
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever stops it wants the servers stopped too
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(sides.scratch())
        checkpoint = sides.random_model(folder / "model")
        servers = {
            name: stack.enter_context(getattr(sides, name)(checkpoint, SETTINGS, folder)) for name in given.peers
        }
        servers["ours"] = stack.enter_context(sides.ours(checkpoint, SETTINGS, folder))
        rounds = compare(servers, given.rounds)
        if "bare" in servers:
            write_bare(rounds)
        if "stock" in servers:
            write_stock(rounds)


if __name__ == "__main__":
    main()
