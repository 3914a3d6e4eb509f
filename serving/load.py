"""Load on an OpenAI-compatible endpoint: requests in a closed or an open loop, each timed and accounted for.

Times are what `vllm bench serve` calls them: time to first token from the moment a request is sent to its first event
with a choice, end to end to its last such event, inter-token latency between two events (of which one may hold several
tokens). A chat's opening event, which names the role alone, counts as little as a comment does.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import numpy as np

OK = "ok"
_MESSAGE = 200
_DATA, _DONE = b"data:", b"[DONE]"
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Request:
    """A body that is ready to be sent, and the path below the endpoint's base URL."""

    path: str
    body: bytes
    stream: bool

    @classmethod
    def of(cls, path: str, body: dict[str, Any]) -> Self:
        """Encode once: what is done while the clock runs is work of the endpoint alone."""
        return cls(path, json.dumps(body).encode(), bool(body.get("stream")))


@dataclass
class Sample:
    """One request and what became of it.

    began_s: since the load began; outcome: `ok` or a kind of error; late_s: how long after its time it was sent, which
    tells of a client that is too slow; first_token_s is None when there was none, or no stream.
    """

    began_s: float
    late_s: float = 0.0
    outcome: str = OK
    message: str = ""
    latency_s: float = 0.0
    first_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def token_s(self) -> float | None:
        """Time per output token after the first; None where there are fewer than two."""
        if self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.latency_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True)
class Limits:
    """When a load ends: after so many requests, or when no new one is sent because its time is over."""

    requests: int
    seconds: float | None = None


class Client:
    """A connection pool to one endpoint: `async with Client(...) as client`."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self.began = 0.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=self._headers, timeout=self._timeout
        )
        self.began = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """Ids that the endpoint lists. Raises aiohttp.ClientError when it does not."""
        async with self._session.get(f"{self.url}/models") as response:
            response.raise_for_status()
            return [str(card["id"]) for card in (await response.json())["data"]]

    async def send(self, request: Request, late_s: float = 0.0) -> Sample:
        """Send, receive to the end. Never raises for what the endpoint or the network does."""
        began = time.perf_counter()
        sample = Sample(began - self.began, late_s)
        try:
            async with self._session.post(f"{self.url}/{request.path}", data=request.body) as response:
                if response.status != 200:
                    sample.outcome = f"http_{response.status}"
                    sample.message = (await response.text())[:_MESSAGE]
                elif request.stream:
                    await _read_stream(response, sample, began)
                else:
                    _take_usage(await response.json(content_type=None), sample)
        except TimeoutError:
            sample.outcome = "timeout"
        except (aiohttp.ClientError, OSError) as error:
            sample.outcome, sample.message = "connection", f"{type(error).__name__}: {error}"[:_MESSAGE]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            sample.outcome, sample.message = "malformed", f"{type(error).__name__}: {error}"[:_MESSAGE]
        if sample.outcome != OK or not request.stream:
            sample.latency_s = time.perf_counter() - began
        return sample


async def _read_stream(response: aiohttp.ClientResponse, sample: Sample, began: float) -> None:
    last, tokens, finished = began, 0, False
    async for data in _events(response):
        if data == _DONE:
            finished = True
            continue
        event = json.loads(data)
        if "error" in event:
            sample.outcome, sample.message = "broken_stream", str(event["error"])[:_MESSAGE]
            return
        _take_usage(event, sample)
        if not (choices := event.get("choices")) or _names_the_role_alone(choices[0]):
            continue
        now = time.perf_counter()
        if sample.first_token_s is None:
            sample.first_token_s = now - began
        else:
            sample.gaps_s.append(now - last)
        last = now
        tokens += 1
    sample.latency_s = last - began
    sample.output_tokens = sample.output_tokens or tokens
    if not finished:
        sample.outcome, sample.message = "broken_stream", "the stream ended without [DONE]"
    elif sample.first_token_s is None:
        sample.outcome = "no_token"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event of one line."""
    rest = b""
    async for part in response.content.iter_any():
        *whole, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            if event.startswith(_DATA):
                yield event[len(_DATA) :].strip()


def _names_the_role_alone(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return delta is not None and "role" in delta and not delta.get("content") and choice.get("finish_reason") is None


def _take_usage(event: dict[str, Any], sample: Sample) -> None:
    if usage := event.get("usage"):
        sample.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        sample.output_tokens = int(usage.get("completion_tokens") or 0)


async def closed_loop(
    client: Client, requests: Iterator[Request], concurrency: int, limits: Limits, tick: Tick | None = None
) -> list[Sample]:
    """`concurrency` clients, each of which sends its next request when it has the answer to its last one."""
    client.began = began = time.perf_counter()
    samples: list[Sample] = []
    left = limits.requests

    async def work() -> None:
        nonlocal left
        while left > 0 and not _over(began, limits):
            left -= 1
            samples.append(await client.send(next(requests)))
            _note(tick, samples)

    await asyncio.gather(*(work() for _ in range(min(concurrency, limits.requests))))
    return samples


async def open_loop(
    client: Client, requests: Iterator[Request], rate: float, limits: Limits, seed: int, tick: Tick | None = None
) -> list[Sample]:
    """Arrivals of a Poisson process of `rate` requests per second, however many are still being answered."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rate, limits.requests)
    client.began = began = time.perf_counter()
    samples: list[Sample] = []

    async def one(request: Request, late_s: float) -> None:
        samples.append(await client.send(request, late_s))
        _note(tick, samples)

    async with asyncio.TaskGroup() as group:
        for due in np.cumsum(gaps):
            if limits.seconds is not None and due > limits.seconds:
                break
            await _sleep_until(began + due)
            group.create_task(one(next(requests), time.perf_counter() - began - due))
    return samples


def _over(began: float, limits: Limits) -> bool:
    return limits.seconds is not None and time.perf_counter() - began >= limits.seconds


def _sleep_until(when: float) -> Awaitable[None]:
    return asyncio.sleep(max(0.0, when - time.perf_counter()))


def _note(tick: Tick | None, samples: list[Sample]) -> None:
    if tick is not None:
        tick(len(samples))
