"""Overload: four times as many requests as the engine can answer, for a minute.

`python benchmarks/serving_overload.py`. The engine is one of fixed latency behind the real door, with room for 8
requests and 2 more that wait; the same with 1 that waits is measured beside it. Answers that began together end
together, so a place may be long in coming. Requests come at the times of a Poisson process and nobody asks again.
Unloaded: one at a time.
"""

import argparse
import asyncio
import json
from itertools import repeat
from typing import Any

import harness
import noop_door
import numpy as np
from noop_engine import FIRST_SECONDS, STEP_SECONDS

from serving import load
from serving.load import Limits, Request, Sample
from serving.load_statistics import percentiles

RUNNING, WAITING, TOKENS = 8, 2, 24
CAPACITY = RUNNING / (FIRST_SECONDS + (TOKENS - 1) * STEP_SECONDS)


def outcomes(samples: list[Sample]) -> dict[str, int]:
    names, counts = np.unique([sample.outcome for sample in samples], return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


async def measure(url: str, key: str, seconds: float) -> tuple[list[Sample], list[Sample], list[Sample]]:
    async with load.Client(url, key, timeout_s=60) as client:
        asked = repeat(Request.of("completions", noop_door.body(TOKENS)))
        await load.closed_loop(client, asked, 2, Limits(4))
        before = await load.closed_loop(client, asked, 1, Limits(30))
        rate = 4 * CAPACITY
        during = await load.open_loop(client, asked, rate, Limits(int(2 * rate * seconds), seconds), seed=1)
        after = await load.closed_loop(client, asked, 1, Limits(30))
        return before, during, after


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60.0)
    seconds = arguments.parse_args().seconds
    ratio, ours, theirs = overloaded(WAITING, seconds)
    fewer, _, _ = overloaded(WAITING - 1, seconds)
    unit = "p99 of accepted requests at 4 times the capacity / p99 of one at a time"
    harness.write("serve.overload", ratio, ours, theirs, [ratio], unit=unit, with_one_that_waits=fewer)
    print(json.dumps(ours, indent=1))


def overloaded(waiting: int, seconds: float) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """The ratio of the p99, what the loaded door did, what the unloaded one did."""
    with noop_door.ours(RUNNING, waiting) as side:
        before, during, after = asyncio.run(measure(side.url, side.key or "", seconds))
    accepted = [sample for sample in during if sample.outcome == load.OK]
    refused = [sample for sample in during if sample.outcome == "http_429"]
    unloaded = percentiles(sample.latency_s for sample in before)
    loaded = percentiles(sample.latency_s for sample in accepted)
    told = percentiles(sample.latency_s for sample in refused)
    assert unloaded is not None and loaded is not None and told is not None
    ours = {
        "seconds": seconds,
        "requests_per_second": len(during) / seconds,
        "capacity_per_second": CAPACITY,
        "answered_per_second": len(accepted) / seconds,
        "outcomes": outcomes(during),
        "accepted_latency_ms": loaded,
        "accepted_ttft_ms": percentiles(sample.first_token_s for sample in accepted),
        "refused_latency_ms": told,
        "sent_late_ms": percentiles(sample.late_s for sample in during),
        "outcomes_after": outcomes(after),
        "latency_ms_after": percentiles(sample.latency_s for sample in after),
    }
    theirs = {"unloaded_latency_ms": unloaded, "outcomes": outcomes(before)}
    return loaded["p99"] / unloaded["p99"], ours, theirs


if __name__ == "__main__":
    main()
