"""`serve up`: a checkpoint becomes an OpenAI-compatible endpoint that demands a key; it is asked, measured, stopped."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cluster import runtime
from core import checkpoint, storage
from core.config import RUNTIME, InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from serving import auth, lifecycle, preflight, up_report
from serving.ask import Answer, Drafts, Question, ask, read_drafts
from serving.door import DoorSettings
from serving.engine import EngineSettings

_KEY = ".key"


class UpConfig(StageConfig, EngineSettings):
    """What is served, where, and what it is asked."""

    checkpoint: InputPath = Field(description="Hugging Face checkpoint directory, quantized or not")
    model_id: str = Field("raymill", pattern=r"^[A-Za-z0-9._-]+$", description="the name that clients ask for")
    questions: list[Question] = Field(default_factory=list, description="asked through the openai client when it is up")
    host: Annotated[str, RUNTIME] = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: Annotated[int, RUNTIME] = Field(8000, ge=1, le=65535, description="port to listen on")
    keep: Annotated[bool, RUNTIME] = Field(False, description="leave the endpoint up; 'raymill serve down' stops it")
    keys_file: Annotated[str | None, RUNTIME] = Field(
        None, description="file with one bearer key on each line; None: a fresh key, kept in the run directory"
    )
    max_waiting: Annotated[int, RUNTIME] = Field(
        32, ge=0, description="requests that may wait behind max_num_seqs running ones; more are answered 429"
    )
    max_body_bytes: Annotated[int, RUNTIME] = Field(2_000_000, ge=1024, description="largest request body")
    start_timeout_s: Annotated[float, RUNTIME] = Field(600.0, gt=0, description="how long the start may take")

    @property
    def reusable(self) -> bool:
        """What is asked and answered can be reused; an endpoint that is to stay up must be started."""
        return not self.keep

    @property
    def engine(self) -> EngineSettings:
        """The engine's part of the settings."""
        return EngineSettings.model_validate({name: getattr(self, name) for name in EngineSettings.model_fields})


def up(config: UpConfig, run: Run) -> Manifest:
    """Start, wait for a real token, ask the questions, and stop unless the endpoint is to be kept."""
    content = checkpoint.check(config.checkpoint)
    quantization = preflight.require(config.checkpoint, content)
    longest = content.get("max_position_embeddings")
    if config.max_model_len is not None and longest is not None and config.max_model_len > int(longest):
        raise UserError(f"max_model_len: {config.max_model_len} is more than the model's context of {longest}")
    address = lifecycle.Address(config.host, config.port)
    lifecycle.check_port(address)
    keys = auth.read_keys(config.keys_file) if config.keys_file else [auth.new_key()]
    digests = [auth.digest(key) for key in keys]
    runtime.connect()
    model = lifecycle.ServedModel(config.model_id, os.path.abspath(config.checkpoint), config.engine, config.seed)
    door = DoorSettings(config.max_num_seqs, config.max_waiting, config.max_body_bytes)
    # Outside of `try`: what it refuses for is an endpoint of somebody else, which must stay up.
    with run.timing("start"):
        lifecycle.deploy([model], address, digests, door)
    try:
        with run.timing("start"), run.progress("starting the engine", unit="s") as progress:
            started_s = lifecycle.wait_ready(
                address, config.start_timeout_s, lambda seconds: progress.update(int(seconds))
            )
        run.log.info("ready after %.0f s: %s (model %s)", started_s, address.url, config.model_id)
        with run.timing("ask"):
            answers = ask(address.url, keys[0], config.model_id, config.questions)
            drafts = read_drafts(address.url, keys[0])
        lines = _headline(answers, drafts, config, started_s)
        if config.keep:
            lines += _how_to_use(config, run, address, keys[0])
        endpoint = {
            "url": address.url,
            "models": [config.model_id],
            "quantization": quantization,
            "speculative": config.speculative.model_dump(),
            "key_digests": digests,
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


def _headline(answers: list[Answer], drafts: Drafts, config: UpConfig, started_s: float) -> list[str]:
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
    if config.speculative.method != "none" and answers:
        share = f"{drafts.acceptance:.0%}" if drafts.acceptance is not None else "no"
        lines.append(
            f"speculative decoding ({config.speculative.method}): {drafts.accepted:,} of {drafts.drafted:,} "
            f"drafted tokens accepted ({share})"
        )
    return lines


def _how_to_use(config: UpConfig, run: Run, address: lifecycle.Address, key: str) -> list[str]:
    """The key itself stays out of logs and manifest: a file that only its owner reads holds it."""
    bearer = "YOUR_KEY" if config.keys_file else f"$(cat {_write_key(run.path(_KEY), key)})"
    body = json.dumps({"model": config.model_id, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32})
    return [
        f"the endpoint stays up at {address.url}",
        f'curl -s {address.url}/chat/completions -H "Authorization: Bearer {bearer}" '
        f"-H 'Content-Type: application/json' -d '{body}'",
        "stop it with: raymill serve down",
    ]


def _write_key(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return path


STAGE = Stage(name="serve.up", version=1, config=UpConfig, run=up)
