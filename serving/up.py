"""`serve up`: checkpoints become an OpenAI-compatible endpoint that demands a key; it is asked, measured, stopped."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from cluster import runtime
from core import checkpoint as checkpoints
from core import storage
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from serving import auth, checks, hardware, lifecycle, up_report
from serving.ask import Answer, Drafts, ask, read_drafts
from serving.endpoint import Address, Endpoint, ServedModel
from serving.engine import ModelConfig, Speculative
from serving.up_config import UpConfig

_KEY = ".key"


def up(config: UpConfig, run: Run) -> Manifest:
    """Start, wait for a real token, ask the questions, and stop unless the endpoint is to be kept."""
    if hardware.vllm_uses_gpus():
        runtime.connect()  # where engines run is asked of the cluster, not of this machine
    models = served_models(config, run.log)
    address = config.address
    lifecycle.check_port(address)
    keys = auth.read_keys(config.keys_file) if config.keys_file else []
    own = auth.new_key()
    fixed = auth.Key(name=auth.OWN, digest=auth.digest(own), operator=True)
    checks.check_names(Endpoint(models=models, keys=[fixed], door=config.door))
    runtime.connect()
    # Outside of `try`: what it refuses for is an endpoint of somebody else, which must stay up.
    with run.timing("start"):
        lifecycle.deploy(models, address, [fixed], config.door)
    try:
        with run.timing("start"), run.progress("starting the engine", unit="s") as progress:
            started_s = lifecycle.wait_ready(
                address, config.start_timeout_s, lambda seconds: progress.update(int(seconds))
            )
        names = [model.config.model_id for model in models]
        run.log.info("ready after %.0f s: %s (%s)", started_s, address.url, ", ".join(names))
        with run.timing("ask"):
            answers = ask(address.url, own, names[0], config.questions, address.verify)
            drafts = read_drafts(address.url, own, address.verify)
        lines = _headline(answers, drafts, models[0].config, started_s)
        if config.keep:
            lines += _how_to_use(config, run, address, own)
        endpoint = _described(models, address) | {
            "key_digests": [key.digest for key in (fixed, *keys)],
            "kept": config.keep,
        }
        storage.write_atomic(run.path("endpoint.json"), json.dumps(endpoint, indent=2) + "\n")
        rows = [answer.row() for answer in answers]
        storage.write_atomic(run.path("answers.json"), json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    except BaseException:
        lifecycle.shutdown()
        raise
    if not config.keep:
        with run.timing("stop"):
            lifecycle.shutdown()
    for line in lines:
        run.log.info("%s", line)
    return run.commit(
        counts={"questions": len(answers), "completion_tokens": sum(answer.completion_tokens for answer in answers)},
        metrics=_metrics(answers, drafts, started_s) | {"headline": lines},
        report=up_report.build(endpoint, answers, drafts, started_s),
    )


def served_models(config: UpConfig, log: logging.Logger) -> list[ServedModel]:
    """The models of a configuration, checked; with `formats`, in the fastest of them. Raises UserError."""
    if not config.formats:
        return [checks.served(model) for model in config.served]
    (model,) = config.served
    return [checks.served(_fastest(model, config.formats, log))]


def _fastest(model: ModelConfig, formats: list[str], log: logging.Logger) -> ModelConfig:
    from serving import format_choice

    assert model.checkpoint is not None
    found, left_out = format_choice.candidates([model.checkpoint, *formats], model.dtype)
    plain = model.engine.model_copy(update={"speculative": Speculative(), "adapter_slots": 0})
    choice = format_choice.choose(
        found,
        left_out,
        arguments=lambda one: plain.model_copy(update={"dtype": one.dtype}).arguments(
            model.seed, checkpoints.check(one.checkpoint)
        ),
        environment=plain.environment(),
        tick=lambda name: log.info("measuring %s", name),
    )
    for line in choice.lines():
        log.info("%s", line)
    return model.model_copy(update={"checkpoint": choice.candidate.checkpoint, "dtype": choice.candidate.dtype})


def _described(models: list[ServedModel], address: Address) -> dict[str, Any]:
    """What others read of an endpoint; at the top stands its first model."""
    return {
        "url": address.url,
        "models": [name for model in models for name in (model.config.model_id, *model.adapters)],
        "aliases": {alias: model.config.model_id for model in models for alias in model.config.aliases},
        "quantization": models[0].quantization,
        "speculative": models[0].config.speculative.model_dump(),
    }


def _metrics(answers: list[Answer], drafts: Drafts, started_s: float) -> dict[str, Any]:
    seconds = sum(answer.seconds for answer in answers)
    first = [answer.first_token_s for answer in answers if answer.first_token_s is not None]
    return {
        "start_seconds": round(started_s, 1),
        "tokens_per_second": round(sum(answer.completion_tokens for answer in answers) / seconds, 2)
        if seconds
        else None,
        "first_token_seconds": round(sum(first) / len(first), 4) if first else None,
        "draft_tokens": drafts.drafted,
        "accepted_draft_tokens": drafts.accepted,
        "acceptance": round(drafts.acceptance, 4) if drafts.acceptance is not None else None,
    }


def _headline(answers: list[Answer], drafts: Drafts, model: ModelConfig, started_s: float) -> list[str]:
    lines = [f"ready after {started_s:.0f} s"]
    for answer in answers:
        shown = " ".join(answer.text.split())
        first = f", first after {answer.first_token_s * 1000:.0f} ms" if answer.first_token_s is not None else ""
        lines.append(f"Q: {answer.question}")
        lines.append(f"A: {shown}")
        lines.append(
            f"   {answer.completion_tokens} tokens, {answer.tokens_per_second:.1f} tokens/s"
            f"{', streamed' if answer.streamed else ''}{first}"
        )
    if model.speculative.method != "none" and answers:
        share = f"{drafts.acceptance:.0%}" if drafts.acceptance is not None else "no"
        lines.append(
            f"speculative decoding ({model.speculative.method}): {drafts.accepted:,} of {drafts.drafted:,} "
            f"drafted tokens accepted ({share})"
        )
    return lines


def _how_to_use(config: UpConfig, run: Run, address: Address, key: str) -> list[str]:
    """The key itself stays out of logs and manifest: a file that only its owner reads holds it."""
    bearer = "YOUR_KEY" if config.keys_file else f"$(cat {_write_key(run.path(_KEY), key)})"
    trust = f"--cacert {address.certificate} " if address.certificate is not None else ""
    model = config.served[0].model_id
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32})
    return [
        f"the endpoint stays up at {address.url}",
        f'curl -s {trust}{address.url}/chat/completions -H "Authorization: Bearer {bearer}" '
        f"-H 'Content-Type: application/json' -d '{body}'",
        "change it with: raymill serve update CONFIG; stop it with: raymill serve down",
    ]


def _write_key(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return path


STAGE = Stage(name="serve.up", version=2, config=UpConfig, run=up)
