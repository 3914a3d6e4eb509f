"""Output tokens/s of checkpoints in vLLM itself: `python -m serving.format_speed` reads a request, prints JSON lines.

A process of its own with the engine inside it: importing vLLM takes 20 to 30 s, once for all formats, and an engine in
the same process starts in a few seconds. Each line is `{"name", "rates", "weights_bytes", "seconds"}`, or `{"name",
"problem"}`; before each, `{"trying": name}`, so that the parent knows which format ended the process when one did.
"""

import contextlib
import gc
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serving import embedding_tables

_WARM_TOKENS, _WARM_PROMPT = 4, 8


@dataclass(frozen=True)
class Job:
    """One format: a checkpoint and how its engine is built. `arguments`: keyword arguments of vLLM's engine."""

    name: str
    checkpoint: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What is measured: requests of `prompt_tokens` random tokens, or `prompts`, with answers of `new_tokens` tokens,
    at each concurrency, so many rounds, but no further one after `seconds`. A format is given up when it has less than
    `floor` of the tokens/s of the best one so far."""

    jobs: Sequence[Job]
    concurrencies: Sequence[int] = (1, 16)
    prompt_tokens: int = 64
    new_tokens: int = 32
    rounds: int = 3
    seconds: float = 60.0
    floor: float = 0.0
    prompts: Sequence[Sequence[int]] = ()
    keep_answers: bool = False

    def to_json(self) -> str:
        """For the measuring process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """The other way."""
        given = json.loads(text)
        return cls(jobs=[Job(**job) for job in given.pop("jobs")], **given)


@dataclass
class Speed:
    """rates: tokens/s by concurrency, the median of the rounds; by_round: each. weights_bytes: growth of resident
    memory while weights were loaded and repacked; of the first engine of a process it holds what else is loaded then.
    drafted, accepted: speculative tokens. answers: token ids."""

    name: str
    rates: dict[int, float] = field(default_factory=dict)
    by_round: dict[int, list[float]] = field(default_factory=dict)
    weights_bytes: int = 0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    answers: list[list[int]] = field(default_factory=list)
    problem: str | None = None

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Speed":
        """From a line of the measuring process, whose keys are text."""
        numbers = {
            key: {int(many): value for many, value in said.get(key, {}).items()} for key in ("rates", "by_round")
        }
        return cls(**dict(said) | numbers)


class _Engine:
    """vLLM in this process."""

    def __init__(self, job: Job, request: Request) -> None:
        from vllm import LLM

        self.llm: Any = LLM(
            model=job.checkpoint,
            skip_tokenizer_init=True,
            disable_log_stats=False,
            **{"enable_prefix_caching": False} | dict(job.arguments),
        )
        self.random = random.Random(0)
        self.given = itertools.cycle(request.prompts)

    def prompts(self, count: int, request: Request) -> list[list[int]]:
        """Those that are given, one after the other; or random ones, so that nothing is in a cache."""
        if request.prompts:
            return [list(prompt) for prompt in itertools.islice(self.given, count)]
        vocabulary = self.llm.llm_engine.model_config.get_vocab_size()
        return [[self.random.randrange(vocabulary) for _ in range(request.prompt_tokens)] for _ in range(count)]

    def generate(self, prompts: Sequence[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        """Greedy answers of exactly `tokens` tokens to all prompts together: (tokens/s, answers)."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        parameters = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        began = time.perf_counter()
        found = self.llm.generate(asked, parameters, use_tqdm=False)
        seconds = time.perf_counter() - began
        answers = [list(answer.outputs[0].token_ids) for answer in found]
        return sum(map(len, answers)) / seconds, answers

    def drafts(self) -> tuple[int, int]:
        """Speculative tokens so far: (drafted, accepted)."""
        totals = {metric.name: int(getattr(metric, "value", 0)) for metric in self.llm.get_metrics()}
        return (
            totals.get("vllm:spec_decode_num_draft_tokens", 0),
            totals.get("vllm:spec_decode_num_accepted_tokens", 0),
        )

    def stop(self) -> None:
        """End it and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        _forget()


def measure(job: Job, request: Request, best: dict[tuple[int, bool], float]) -> Speed:
    """Start an engine in this process, time it, stop it. best: tokens/s so far, raised here."""
    began = time.perf_counter()
    speed = Speed(job.name)
    with _weights_growth(speed):
        engine = _Engine(job, request)
    try:
        for concurrency in request.concurrencies:
            # Short prompts: a kernel that is slow at long ones is known by its speed here before it is given any.
            short = [prompt[:_WARM_PROMPT] for prompt in engine.prompts(concurrency, request)]
            engine.generate(short, _WARM_TOKENS)
            rates: list[float] = []
            started = time.perf_counter()
            for number in range(-1, request.rounds):
                if number > 0 and time.perf_counter() - started > request.seconds:
                    break
                prompts = short if number < 0 else engine.prompts(concurrency, request)
                rate, answers = engine.generate(prompts, request.new_tokens if number >= 0 else _WARM_TOKENS)
                place = (concurrency, number < 0)
                if rate < request.floor * best.get(place, 0.0):
                    speed.problem = f"{rate:.1f} tokens/s at concurrency {concurrency}, {best[place]:.1f} elsewhere"
                    return speed
                best[place] = max(best.get(place, 0.0), rate)
                if number >= 0:
                    rates.append(rate)
                    speed.answers += answers if request.keep_answers else []
            speed.by_round[concurrency] = rates
            speed.rates[concurrency] = statistics.median(rates)
        speed.drafted, speed.accepted = engine.drafts()
    finally:
        engine.stop()
    speed.seconds = time.perf_counter() - began
    return speed


@contextlib.contextmanager
def _weights_growth(speed: Speed) -> Iterator[None]:
    """Memory of this process before and after the engine's worker loads the model."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = CPUModelRunner.load_model

    def timed(runner: Any, *arguments: Any, **named: Any) -> Any:
        before = _own_bytes()
        try:
            return load(runner, *arguments, **named)
        finally:
            speed.weights_bytes = _own_bytes() - before

    setattr(CPUModelRunner, "load_model", timed)  # noqa: B010
    try:
        yield
    finally:
        setattr(CPUModelRunner, "load_model", load)  # noqa: B010


def _own_bytes() -> int:
    """Resident memory but for what is mapped from files, 0 where the system does not say."""
    _trim()
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _forget() -> None:
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    destroy_model_parallel()
    destroy_distributed_environment()
    _trim()


def _trim() -> None:
    """Collect, and give freed memory back to the system, so that resident memory is memory in use."""
    import ctypes

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    """Measure what standard input asks for; standard output is for the results alone."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no result
    request = Request.from_json(sys.stdin.read())
    embedding_tables.pack_when_used()
    best: dict[tuple[int, bool], float] = {}
    for job in request.jobs:
        print(json.dumps({"trying": job.name}), file=results, flush=True)
        try:
            speed = measure(job, request, best)
        except Exception as error:  # noqa: BLE001 (every kind of failure is this format's answer)
            reason = (str(error).strip().splitlines() or [""])[-1]
            speed = Speed(job.name, problem=f"does not start: {type(error).__name__}: {reason}")
            with contextlib.suppress(Exception):
                _forget()
        print(json.dumps(asdict(speed)), file=results, flush=True)


if __name__ == "__main__":
    main()
