"""Number formats of one model in vLLM: how fast, how large, how exact; and whether `auto` takes the fastest.

    serving_formats.py speed      100 M parameters, random weights, prompts of 64 tokens and 64 new ones,
                                  concurrency 1 and 16; every format that runs on this machine
    serving_formats.py memory     resident memory that the weights take in the engine, INT8 over BF16
    serving_formats.py quality    a trained model (--folder RUNS, the quickstart's by default), held-out text

`auto` is asked as `serve up` asks it, with an empty memory, before the real measurement. A format's figure at each
concurrency is its tokens/s over those of the best one there; the value is the mean over concurrencies of the format
taken, over the best mean of all formats.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import harness
import serving_setup as setup
import torch

from core import checkpoint
from serving import compress, footprint, format_choice, hardware, preflight, schemes
from serving.engine import EngineSettings
from serving.format_choice import Candidate
from serving.format_speed import Request, Speed
from serving.quantize import STAGE, QuantizeConfig

SETTINGS = EngineSettings(max_num_seqs=16, kv_cache_gib=0.5)
ROUNDS, MEMORY_ROUNDS = 3, 2
_HOPELESS = 0.4  # of the best in the calibration: whose figures (32 new tokens) stand for it, it is minutes otherwise
_BYTES = {"bfloat16": 2, "float32": 4}
_MIB = 1 << 20


def formats(folder: Path) -> list[str]:
    """The model in BF16, and rounded to every scheme that runs here."""
    original = setup.save(setup.llama(), folder / "original", torch.bfloat16)
    calibration_ST = torch.randint(0, setup.VOCABULARY, (4, 64))
    paths = [original]
    for name in schemes.SCHEMES:
        if preflight.runs(name, hardware.detect()).ok:
            model = checkpoint.load_model(original)
            variant = schemes.variant(name, "rtn")
            compress.quantize(model, variant, calibration_ST, False, "auto", lambda: None)
            compress.save(model, torch.bfloat16, original, folder / name)
            paths.append(str(folder / name))
    return paths


def settings(candidate: Candidate) -> EngineSettings:
    return SETTINGS.model_copy(update={"dtype": candidate.dtype})


def speed(folder: Path) -> None:
    found, left_out = format_choice.candidates(formats(folder))

    def arguments(candidate: Candidate) -> dict:
        return setup.job("", candidate.checkpoint, settings(candidate)).arguments

    choice = format_choice.choose(found, left_out, arguments, SETTINGS.environment(), print, folder / "cache.json")
    print("\n".join(choice.lines()))
    guessed = format_choice.score(choice.rates)
    chosen = [one for one in found if guessed.get(one.name, 0) >= _HOPELESS]
    jobs = [setup.job(one.name, one.checkpoint, settings(one)) for one in chosen]
    request = Request(jobs, (1, 16), setup.PROMPT_TOKENS, setup.NEW_TOKENS, ROUNDS)
    speeds = {one.name: one for one in format_choice.run(request, SETTINGS.environment(), print)}
    for name, by_concurrency in choice.rates.items():
        if name not in speeds:
            speeds[name] = Speed(name, dict(by_concurrency), {many: [rate] for many, rate in by_concurrency.items()})
    rates = {name: one.rates for name, one in speeds.items() if one.problem is None}
    scores = format_choice.score(rates)
    sizes = {
        one.name: footprint.memory_bytes(one.checkpoint, checkpoint.check(one.checkpoint), _BYTES[one.dtype])
        for one in found
    }
    taken, best = choice.candidate.name, max(scores, key=scores.__getitem__)
    table = {
        name: {
            "tokens_per_second": rates.get(name),
            "calibration": choice.rates.get(name),
            "mean_of_best": scores.get(name),
            "calibration_alone": name not in {job.name for job in jobs},
            "weights_mib": sizes[name] / _MIB,
        }
        for name in speeds
    }
    runs = [
        _score_of_round(speeds, rates, taken, number) for number in range(min(len(speeds[taken].by_round[1]), ROUNDS))
    ]
    harness.write(
        "serve.auto_format_vs_best",
        scores[taken] / scores[best],
        {taken: rates[taken]},
        {best: rates[best]},
        runs,
        unit="output tokens/s by concurrency",
        hardware=hardware.describe(),
        formats=table,
        left_out=choice.left_out,
    )


def _score_of_round(speeds: dict, rates: dict, taken: str, number: int) -> float:
    by_round = {
        name: {many: speeds[name].by_round[many][min(number, len(speeds[name].by_round[many]) - 1)] for many in (1, 16)}
        for name in rates
    }
    scores = format_choice.score(by_round)
    return scores[taken] / max(scores.values())


def memory(folder: Path) -> None:
    original = setup.save(setup.llama(), folder / "original", torch.bfloat16)
    model = checkpoint.load_model(original)
    compress.quantize(
        model, schemes.variant("int8_w8a8", "rtn"), torch.randint(0, 9, (4, 64)), True, "auto", lambda: None
    )
    compress.save(model, torch.bfloat16, original, folder / "int8")
    in_bf16 = SETTINGS.model_copy(update={"dtype": "bfloat16"})
    tiny = setup.save(setup.llama(1, 64), folder / "tiny", torch.bfloat16)
    sizes = {}
    for number in range(MEMORY_ROUNDS):
        for name, place in (("bfloat16", "original"), ("int8", "int8")):
            # A process for each: memory that an engine has given back is not grown into again.
            jobs = [setup.job("tiny", tiny, in_bf16), setup.job(name, str(folder / place), in_bf16)]
            _, found = format_choice.run(Request(jobs, (1,), 8, 1, 1), SETTINGS.environment(), print)
            sizes[f"{name} {number}"] = found.weights_bytes
    ratios = [sizes[f"int8 {number}"] / sizes[f"bfloat16 {number}"] for number in range(MEMORY_ROUNDS)]
    contents = {place: checkpoint.check(folder / place) for place in ("original", "int8")}
    by_header = {place: footprint.memory_bytes(folder / place, content) for place, content in contents.items()}
    harness.write(
        "serve.int8_memory",
        statistics.median(ratios),
        statistics.median(size for name, size in sizes.items() if name.startswith("int8")) / _MIB,
        statistics.median(size for name, size in sizes.items() if name.startswith("bfloat16")) / _MIB,
        ratios,
        unit="MiB",
        hardware=hardware.describe(),
        by_header={place: size / _MIB for place, size in by_header.items()},
    )


def quality(folder: Path) -> None:
    runs = Path(sys.argv[sys.argv.index("--folder") + 1]) if "--folder" in sys.argv else Path("runs/quickstart")
    given = {
        "checkpoint": str(runs / "pretrain" / "checkpoint"),
        "documents": str(runs / "build"),
        "samples": 128,
        "sequence_length": 256,
        "held_out_samples": 128,
        "max_perplexity_increase": 10.0,
    }
    seeds = [
        STAGE.execute(QuantizeConfig(output=str(folder / str(seed)), seed=seed, **given))[0].metrics
        for seed in range(3)
    ]
    every, _ = STAGE.execute(QuantizeConfig(output=str(folder / "all"), schemes="all", **given))
    rows = every.metrics["schemes"]
    increases = [found["perplexity_increase"] for found in seeds]
    harness.write(
        "serve.int8_quality",
        statistics.median(increases),
        statistics.median(found["perplexity_after"] for found in seeds),
        statistics.median(found["perplexity_before"] for found in seeds),
        increases,
        unit="perplexity on held-out documents",
        parameters=sum(p.numel() for p in checkpoint.load_model(given["checkpoint"]).parameters()),
        held_out_tokens=every.counts["held_out_tokens"],
        schemes={
            name: {key: row.get(key) for key in ("perplexity_increase", "kl_divergence", "top1_agreement", "problem")}
            for name, row in rows.items()
        },
    )


if __name__ == "__main__":
    setup.quiet()
    with tempfile.TemporaryDirectory() as scratch:
        {"speed": speed, "memory": memory, "quality": quality}[sys.argv[1]](Path(scratch))
