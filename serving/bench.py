"""`serve bench`: how fast an OpenAI-compatible endpoint answers, by how many ask at a time or how often they ask."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import aiohttp
from pydantic import Field, SecretStr, model_validator

from core import storage
from core.config import RUNTIME, StageConfig
from core.errors import RaymillError, UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from serving import bench_report, load, prompts
from serving.load import OK, Client, Limits, Request, Sample
from serving.load_statistics import Objectives, summarize
from serving.prompts import PromptSet

KEY_VARIABLE = "OPENAI_API_KEY"
_PATHS = {"chat": "chat/completions", "completions": "completions"}


class BenchConfig(StageConfig):
    """Which endpoint is asked what, and how hard."""

    url: str = Field("http://127.0.0.1:8000/v1", description="base URL of the endpoint, as OpenAI clients take it")
    key: Annotated[SecretStr | None, RUNTIME] = Field(
        None, description=f"bearer key; better in key_file, or in the environment as {KEY_VARIABLE}"
    )
    key_file: Annotated[str | None, RUNTIME] = Field(None, description="file with the bearer key on its first line")
    model: str | None = Field(None, description="the model to ask; None: the first that the endpoint lists")
    api: Literal["completions", "chat"] = Field("completions", description="which of the two ways to ask")
    prompts: PromptSet = Field(default_factory=PromptSet, description="what is asked")
    max_tokens: int = Field(64, ge=1, description="longest answer")
    ignore_eos: bool = Field(
        True, description="vLLM's field: answers have max_tokens; set false for endpoints that do not know it"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")
    body: dict[str, Any] = Field(
        default_factory=dict, description="more fields of each request, as the endpoint has them"
    )
    stream: bool = Field(True, description="false: answers come whole, and of times only their end is known")
    concurrencies: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list, description="closed loop: so many clients, each asks again when it is answered"
    )
    rates: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=list, description="open loop: so many requests per second, at the times of a Poisson process"
    )
    requests: int = Field(100, ge=1, description="most requests of each load")
    seconds: float | None = Field(None, gt=0, description="no request is sent later than this in a load; None: no end")
    warmup: int = Field(2, ge=1, description="requests before the first load, not measured; one must be answered")
    timeout_s: float = Field(600.0, gt=0, description="a request that takes longer counts as failed")
    objectives: Objectives = Field(default_factory=Objectives, description="service levels, for goodput")

    @model_validator(mode="after")
    def _some_load_and_one_key(self) -> "BenchConfig":
        if not self.concurrencies and not self.rates:
            raise ValueError("neither concurrencies nor rates are given; try concurrencies: [1, 8, 32]")
        if self.key is not None and self.key_file is not None:
            raise ValueError("key and key_file are both given; keep one")
        return self

    @property
    def reusable(self) -> bool:
        """An endpoint may answer otherwise today."""
        return False

    @property
    def loads(self) -> list[tuple[str, float]]:
        """(mode, load) in the order in which they are put on."""
        return [("concurrency", float(n)) for n in self.concurrencies] + [("rate", rate) for rate in self.rates]


def bench(config: BenchConfig, run: Run) -> Manifest:
    """Put each load on the endpoint, one after the other, and write what was measured."""
    measured = asyncio.run(_measure(config, _key(config), run))
    levels = [summarize(mode, amount, samples, config.objectives) for (mode, amount), samples in measured]
    with run.path("requests.jsonl").open("w", encoding="utf-8") as file:
        for (mode, amount), samples in measured:
            file.writelines(json.dumps({mode: amount} | asdict(sample)) + "\n" for sample in samples)
    rows = [level.row() for level in levels]
    storage.write_atomic(run.path("levels.json"), json.dumps(rows, indent=2) + "\n")
    errors: dict[str, int] = {}
    for level in levels:
        errors |= {kind: errors.get(kind, 0) + count for kind, count in level.errors.items()}
    return run.commit(
        counts={
            "requests": sum(level.requests for level in levels),
            "answered": sum(level.answered for level in levels),
            "errors": errors,
        },
        metrics={"levels": rows, "headline": bench_report.lines(levels)},
        report=bench_report.build(config.url, levels, config.objectives, _messages(measured)),
    )


def _key(config: BenchConfig) -> str | None:
    if config.key_file is not None:
        try:
            return Path(config.key_file).read_text(encoding="utf-8").split()[0]
        except (OSError, UnicodeDecodeError, IndexError):
            raise UserError(f"key_file: {config.key_file}: no file with a key on its first line") from None
    return config.key.get_secret_value() if config.key is not None else os.environ.get(KEY_VARIABLE)


async def _measure(config: BenchConfig, key: str | None, run: Run) -> list[tuple[tuple[str, float], list[Sample]]]:
    async with Client(config.url, key, config.timeout_s) as client:
        model = config.model or await _first_model(client)
        await _warm_up(client, _requests(config, model, config.warmup, 0), config)
        measured = []
        limits = Limits(config.requests, config.seconds)
        for number, (mode, amount) in enumerate(config.loads, 1):
            asked = _requests(config, model, config.requests, number)
            with run.timing("load"), run.progress(f"{mode} {amount:g}", config.requests, "requests") as progress:
                if mode == "concurrency":
                    samples = await load.closed_loop(client, asked, int(amount), limits, progress.update)
                else:
                    seed = config.seed + number
                    samples = await load.open_loop(client, asked, amount, limits, seed, progress.update)
            measured.append(((mode, amount), samples))
        return measured


def _requests(config: BenchConfig, model: str, count: int, number: int) -> Iterator[Request]:
    """Each load has prompts of its own: a prefix cache knows none of the last load's."""
    fields: dict[str, Any] = {
        "model": model,
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "stream": config.stream,
    }
    if config.stream:
        fields["stream_options"] = {"include_usage": True}
    if config.ignore_eos:
        fields["ignore_eos"] = True
    for asked in prompts.bodies(config.prompts, config.api == "chat", count, (config.seed, number)):
        yield Request.of(_PATHS[config.api], fields | asked | config.body)


async def _first_model(client: Client) -> str:
    try:
        found = await client.models()
    except aiohttp.ClientResponseError as error:
        raise UserError(
            f"url: {client.url}/models answers {error.status} ({error.message}); is the key right?"
        ) from None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"url: {client.url}: no OpenAI-compatible endpoint answers there ({error})") from None
    if not found:
        raise UserError(f"url: {client.url} lists no model; name one with --set model=...")
    return found[0]


async def _warm_up(client: Client, asked: Iterator[Request], config: BenchConfig) -> None:
    samples = [await client.send(next(asked)) for _ in range(config.warmup)]
    if all(sample.outcome != OK for sample in samples):
        first = samples[0]
        raise RaymillError(f"{config.url}: the endpoint does not answer: {first.outcome} {first.message}".rstrip())


def _messages(measured: list[tuple[tuple[str, float], list[Sample]]]) -> dict[str, str]:
    """What the endpoint said at the first error of each kind."""
    found: dict[str, str] = {}
    for _, samples in measured:
        for sample in samples:
            if sample.outcome != OK:
                found.setdefault(sample.outcome, sample.message)
    return found


STAGE = Stage(name="serve.bench", version=1, config=BenchConfig, run=bench)
