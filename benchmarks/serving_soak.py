"""An hour of moderate load on the whole endpoint: what its processes hold at the start and at the end.

    serving_soak.py [--minutes 60] [--rate 4]

The real door, Ray Serve and vLLM with a small model. Streams and whole answers arrive as a Poisson process; of
twenty requests one has a wrong key, one a body that is no request, one a client that goes away in the middle of its
answer. Memory is the anonymous resident memory of every process of the endpoint, read twice a minute: what is mapped
from files is shared with whatever else runs. The value is the slope of a straight line through the second half, MiB an
hour.
"""

import argparse
import asyncio
import collections
import contextlib
import random
import time
from itertools import cycle, islice
from pathlib import Path

import aiohttp
import harness
import numpy as np
import psutil
import serving_sides as sides

from serving import load, prompts
from serving.engine import EngineSettings
from serving.load_statistics import percentiles

SETTINGS = EngineSettings(dtype="float32", max_num_seqs=8, kv_cache_gib=0.02, max_model_len=512)
_EVERY_SECONDS = 30.0
_LEAVES_AFTER_SECONDS = 0.15


class Memory:
    """The processes that were started with a state folder of their own, which Ray hands down to all of its workers."""

    def __init__(self, folder: Path) -> None:
        self._state = str(folder / "state")
        self.times: list[float] = []
        self.rows: list[dict[str, float]] = []

    def read(self) -> None:
        """Take a row: MiB by what a process calls itself."""
        row: dict[str, float] = collections.defaultdict(float)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError, StopIteration):
                if process.environ().get("XDG_STATE_HOME") == self._state:
                    row[_name(process)] += _anonymous_mib(process.pid)
        self.times.append(time.monotonic() / 3600)
        self.rows.append(dict(row))

    def of(self, name: str | None) -> np.ndarray:
        """The rows of one kind of process, or of all together."""
        return np.array([sum(row.values()) if name is None else row.get(name, 0.0) for row in self.rows])

    def summary(self, name: str | None = None) -> dict[str, float]:
        """MiB at the start, in the middle and at the end, and MiB an hour of a line through the second half."""
        half = len(self.rows) // 2
        held = self.of(name)
        slope = np.polyfit(self.times[half:], held[half:], 1)[0]
        return {"start": held[0], "middle": held[half], "end": held[-1], "per_hour": float(slope)}


def _name(process: psutil.Process) -> str:
    """`ray::ServeReplica:raymill:door`, `VLLM::EngineCore` and the like; else the program and its script."""
    line = process.cmdline()
    if not line or "::" in line[0]:
        return line[0].split(".")[0].strip() if line else process.name()
    scripts = [word for word in line[1:] if word.endswith(".py")]
    return f"{process.name()} {Path(scripts[0]).stem}" if scripts else process.name()


def _anonymous_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def asked(seed: int) -> list[load.Request]:
    """Completions, streamed and whole, answers of 8 to 32 tokens."""
    drawn = random.Random(seed)
    texts = list(islice(prompts.bodies(prompts.PromptSet(tokens=16, tokens_max=200), False, 500, (seed,)), 500))
    requests = []
    for body in texts:
        stream = drawn.random() < 0.7
        fields = body | {"model": sides.MODEL, "max_tokens": drawn.randint(8, 32), "stream": stream}
        requests.append(load.Request.of("completions", fields))
    return requests


async def _leaves(client: aiohttp.ClientSession, url: str, key: str, request: load.Request) -> str:
    """Goes away in the middle of its answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEAVES_AFTER_SECONDS):
            async with client.post(f"{url}/completions", data=request.body, headers=headers) as response:
                await response.read()
    return "left"


async def _refused(client: aiohttp.ClientSession, url: str, key: str, body: bytes) -> str:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with client.post(f"{url}/completions", data=body, headers=headers) as response:
        await response.read()
        return f"http_{response.status}"


async def press(side: sides.Side, rate: float, minutes: float, memory: Memory) -> tuple[dict, list[load.Sample]]:
    """Load until the time is over: requests by outcome, and the timed ones."""
    key, end = side.key or "", time.monotonic() + minutes * 60
    drawn, requests = random.Random(0), cycle(asked(0))
    outcomes: collections.Counter[str] = collections.Counter()
    samples: list[load.Sample] = []

    async def one(client: load.Client, plain: aiohttp.ClientSession, kind: float) -> None:
        request = next(requests)
        if kind < 0.05:
            outcomes[await _refused(plain, side.url, f"wrong-{drawn.random()}", request.body)] += 1
        elif kind < 0.10:
            outcomes[await _refused(plain, side.url, key, request.body[: len(request.body) // 2])] += 1
        elif kind < 0.15:
            outcomes[await _leaves(plain, side.url, key, request)] += 1
        else:
            samples.append(await client.send(request))
            outcomes[samples[-1].outcome] += 1

    async def watch() -> None:
        while True:
            await asyncio.to_thread(memory.read)
            held = memory.of(None)
            print(f"{len(held) * _EVERY_SECONDS / 60:.1f} min: {held[-1]:.0f} MiB, {dict(outcomes)}", flush=True)
            await asyncio.sleep(_EVERY_SECONDS)

    async with load.Client(side.url, key, timeout_s=120) as client, aiohttp.ClientSession() as plain:
        watching = asyncio.create_task(watch())
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                await asyncio.sleep(drawn.expovariate(rate))
                group.create_task(one(client, plain, drawn.random()))
        watching.cancel()
    memory.read()
    return dict(outcomes), samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second")
    given = parser.parse_args()
    with sides.scratch() as folder:
        checkpoint = sides.random_model(folder / "model", layers=4, width=256)
        memory = Memory(folder)
        with sides.ours(checkpoint, SETTINGS, folder) as side:
            outcomes, samples = asyncio.run(press(side, given.rate, given.minutes, memory))
    total = memory.summary()
    names = sorted({name for row in memory.rows for name in row})
    harness.write(
        "serve.soak",
        total["per_hour"],
        {"mib": total, "by_process_mib": {name: memory.summary(name) for name in names}, "outcomes": outcomes},
        None,
        [total["per_hour"]],
        unit="MiB an hour, all processes of the endpoint, second half of the run",
        minutes=given.minutes,
        requests_per_second=given.rate,
        latency_ms=percentiles(sample.latency_s for sample in samples if sample.outcome == load.OK),
    )


if __name__ == "__main__":
    main()
