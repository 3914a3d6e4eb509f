"""What the front door adds to the time to first token at concurrency 32, with an engine of fixed latency behind it.

`python benchmarks/serving_noop.py`. The same engine (first token after 50 ms, then one every 20 ms) stands behind a
bare FastAPI and uvicorn server, as vLLM's is, and behind the real door on Ray Serve. Both are asked in turn.

Answers have 16 to 48 tokens. With answers of one length the clients fall into step at some times and not at others:
whoever is asked in a burst of 32 then seems 25 ms slower. What a burst costs is measured too, on purpose.
"""

import argparse
import asyncio
import statistics
from itertools import repeat

import harness

harness.one_thread()

import noop_door  # noqa: E402
import numpy as np  # noqa: E402
from serving_sides import Side  # noqa: E402

from serving import load  # noqa: E402
from serving.load import Limits, Request  # noqa: E402
from serving.load_statistics import Level, Objectives, summarize  # noqa: E402

CLAIM = "serve.ttft_overhead_ms_c32"
TOKENS, REQUESTS = (16, 48), {1: 12, 8: 64, 32: 256}
BURSTS = 6


def press(side: Side, concurrency: int, seed: int) -> Level:
    lengths = np.random.default_rng(seed).integers(*TOKENS, 4 * REQUESTS[concurrency], endpoint=True)
    asked = iter([Request.of("completions", noop_door.body(int(tokens))) for tokens in lengths])

    async def go() -> list[load.Sample]:
        async with load.Client(side.url, side.key) as client:
            await load.closed_loop(client, asked, concurrency, Limits(3 * concurrency))
            return await load.closed_loop(client, asked, concurrency, Limits(REQUESTS[concurrency]))

    return level_of(concurrency, asyncio.run(go()))


def bursts(side: Side) -> Level:
    """32 requests in the same moment, several times."""
    asked = repeat(Request.of("completions", noop_door.body(4)))

    async def go() -> list[load.Sample]:
        async with load.Client(side.url, side.key) as client:
            found = [await load.closed_loop(client, asked, 32, Limits(32)) for _ in range(BURSTS + 1)]
            return [sample for samples in found[1:] for sample in samples]

    return level_of(32, asyncio.run(go()))


def level_of(concurrency: int, samples: list[load.Sample]) -> Level:
    level = summarize("concurrency", concurrency, samples, Objectives())
    assert not level.errors, level.errors
    return level


def shown(levels: list[dict[int, Level]]) -> dict[str, dict[str, float]]:
    return {
        str(concurrency): {
            f"{name}_ms_{p}": statistics.median(getattr(level[concurrency], f"{name}_ms")[p] for level in levels)
            for name in ("ttft", "tpot")
            for p in ("p50", "p99")
        }
        | {"output_tokens_per_second": statistics.median(lv[concurrency].output_tokens_per_second for lv in levels)}
        for concurrency in REQUESTS
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    mine, theirs, together = [], [], []
    with noop_door.bare() as bare, noop_door.ours(running=64, waiting=64) as ours:
        for number in range(rounds):
            pair: tuple[dict[int, Level], dict[int, Level]] = ({}, {})
            for concurrency in REQUESTS:
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    pair[place][concurrency] = press((ours, bare)[place], concurrency, number)
                one, two = (side[concurrency] for side in pair)
                print(
                    f"round {number} concurrency {concurrency:2}: ttft p50 {one.ttft_ms['p50']:.1f} / "
                    f"{two.ttft_ms['p50']:.1f} ms, tpot {one.tpot_ms['p50']:.1f} / {two.tpot_ms['p50']:.1f} ms",
                    flush=True,
                )
            mine.append(pair[0])
            theirs.append(pair[1])
            together.append([bursts(side).ttft_ms["p50"] for side in (ours, bare)])  # type: ignore[index]
    added = [one[32].ttft_ms["p50"] - two[32].ttft_ms["p50"] for one, two in zip(mine, theirs, strict=True)]
    unit = "ms by concurrency, medians over the rounds; first token after 50 ms, then 15 to 47 more, one every 20 ms"
    burst = dict(zip(("ours", "theirs"), np.median(together, axis=0).tolist(), strict=True))
    print("32 at once, ttft p50:", burst)
    harness.write(
        CLAIM, statistics.median(added), shown(mine), shown(theirs), added, unit=unit, ttft_ms_p50_of_32_at_once=burst
    )


if __name__ == "__main__":
    main()
