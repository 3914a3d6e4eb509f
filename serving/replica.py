"""The Ray Serve deployment that holds one engine: `ray.serve.llm`'s server, asked in OpenAI's terms.

vLLM (10 s of imports on 2 cores) is imported in the replica alone; the driver and the door stay light.
"""

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import engine_calls, engine_metrics, engine_process, errors, fetch, readiness
from serving.adapters import AdapterSet, Listed
from serving.engine import EngineSettings
from serving.errors import ApiError

if TYPE_CHECKING:
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.serve.llm import LLMConfig

_LAST_WORDS_SECONDS = 0.2
_SHARE_SECONDS = 5.0
FAILURE_MARK = "engine did not start: "
_ERROR_LINE = re.compile(r"(?:^|\s)(?:[\w.]+\.)?(\w+(?:Error|Exception)): (\S.*)$")
_VALIDATION = re.compile(r"Value error, (.+?)(?: \[type=|$)", re.MULTILINE)
_HOLLOW = ("Engine core initialization failed", "Worker failed with error", "WorkerProc initialization failed")

log = logging.getLogger("ray.serve")


class ModelReplica:
    """One engine. Its constructor returns when the engine is ready, or raises RuntimeError with the engine's reason."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, model_id: str, checkpoint: str, settings: EngineSettings, seed: int
    ) -> None:
        self.model_id = model_id
        mark = _log_size()
        self._folder = tempfile.TemporaryDirectory(prefix="raymill-")
        try:
            engine_process.prepare(settings.on_gpu)
            checkpoint, settings = await asyncio.to_thread(fetch.engine_files, checkpoint, settings)
            self._server = await _start(_llm_config(model_id, checkpoint, settings, seed), settings)
            self._adapters = AdapterSet(self._server.engine, Path(self._folder.name))
            self._speculates = await _watch_drafts(self._server, settings)
        except Exception as error:  # noqa: BLE001 (every kind of failure has its reason in the log)
            raise RuntimeError(FAILURE_MARK + _reason(error, mark)) from None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """What changes without a new engine: `adapters`, (path, identity) by name."""
        await self._adapters.update({name: Listed(*listed) for name, listed in user_config["adapters"].items()})

    async def adapters(self) -> dict[str, str]:
        """Identity by name of the adapters that the engine could load."""
        return self._adapters.loaded

    async def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str | ApiError, None]:
        """Answer one request: one JSON text, or for a stream its server-sent events one by one.

        What goes wrong is yielded as an ApiError and never raised: Ray would carry vLLM's exception to the door, which
        would import vLLM to read it (20 s without an answer to anybody). Closing the iterator ends the generation.
        """
        from pydantic import ValidationError
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        from serving.protocol import describe

        try:
            async with aclosing(engine_calls.parts(self._server, kind, body)) as parts:
                async for part in parts:
                    yield part
        except ApiError as error:
            yield error
        except ValidationError as error:
            message, param = describe(error.errors())
            yield ApiError(400, message, param=param)
        except VLLMClientError as error:
            yield engine_calls.refused(str(error), getattr(error, "parameter", None))
        except EngineDeadError:
            yield errors.not_ready()
            # At once, not at the next health check: until then each request that came here would fail.
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, os._exit, 1)
        except Exception:
            log.exception("a request failed in the engine")
            yield errors.internal()

    async def alive(self, kind: str, body: dict[str, Any]) -> bool:
        """Whether the engine works: see `readiness.alive`."""
        return await readiness.alive(self.generate(kind, body), engine_metrics.tokens)

    async def limits(self) -> dict[str, int]:
        """What the door tells clients about the model."""
        engine: Any = self._server.engine
        return {"max_model_len": int(engine._engine_client.model_config.max_model_len)}

    async def metrics(self) -> str:
        """vLLM's own metrics in Prometheus' text form, labelled with this replica."""
        from prometheus_client import generate_latest
        from ray import serve

        text = generate_latest().decode()
        if self._speculates:
            text += await self._draft_share()
        return engine_metrics.labelled(text, replica=serve.get_replica_context().replica_id.unique_id)

    async def _draft_share(self) -> str:
        engine: Any = self._server.engine
        try:
            # Of several GPUs each has a worker, and all step together.
            share, *_ = await engine._engine_client.collective_rpc("draft_share", timeout=_SHARE_SECONDS)
        except Exception:
            log.exception("the engine does not tell its share of drafts")
            return ""
        name = "raymill_draft_share"
        head = f"# HELP {name} Share of the last decoding steps that drafted.\n# TYPE {name} gauge\n"
        return f'{head}{name}{{model_name="{self.model_id}"}} {share}\n'

    async def check_health(self) -> None:
        """Raises when the engine is dead; Ray Serve then replaces the replica."""
        await self._server.check_health()

    async def __del__(self) -> None:
        server = getattr(self, "_server", None)
        if server is not None and server.engine is not None:
            server.engine._engine_client.shutdown()


def _llm_config(model_id: str, checkpoint: str, settings: EngineSettings, seed: int) -> "LLMConfig":
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
    from ray.serve.llm import LLMConfig

    from core import checkpoint as checkpoints

    class LocalCheckpoint(CallbackBase):
        """The checkpoint is on disk: skip the download task, a process that imports all of ray.serve.llm again."""

        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    return LLMConfig(
        model_loading_config={"model_id": model_id, "model_source": checkpoint},
        engine_kwargs=settings.arguments(seed, checkpoints.check(checkpoint)),
        accelerator_config={"kind": "gpu" if settings.on_gpu else "cpu"},
        placement_group_config={"bundles": [{"GPU": settings.gpus} if settings.on_gpu else {"CPU": 1}]},
        callback_config=CallbackConfig(callback_class=LocalCheckpoint),
        # ray#59681: the batcher holds the first token back for its whole window of 50 ms.
        experimental_configs={"stream_batching_interval_ms": 0},
        # False leaves vLLM its own Prometheus logger, whose registry `metrics` reads.
        log_engine_metrics=False,
    )


async def _start(config: "LLMConfig", settings: EngineSettings) -> "LLMServer":
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class LocalEngine(VLLMEngine):
        """The engine's workers are processes of this machine, whose GPUs the replica holds. Ray would ask for a task
        and for actors with GPUs of their own, and wait for ever.

        With one worker it is the engine's process itself. vLLM's multi-process executor, which Ray asks for on every
        CPU, is one more: 10 s of imports at the start, then a busy loop that competes with the model for the cores.
        """

        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            if settings.on_gpu:
                return _configured(self.llm_config)
            return super()._prepare_engine_config(callback_ctx)

        def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
            if vllm_engine_config.parallel_config.world_size == 1:
                vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
            return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)

        async def start(self) -> None:
            """Ray 2.60 looks for the tokenizer's part under the name that it had in earlier versions of vLLM."""
            await super().start()
            self._oai_serving_tokenization = self._app_state.serving_tokenization

    class PlainServer(LLMServer):
        """Ray's server reports each model to a telemetry actor, also when usage statistics are off: a process of its
        own, waited for at every start (5 s)."""

        async def _start_engine(self) -> None:
            assert self.engine is not None
            await self.engine.start()

    engine_process.use()
    server = PlainServer.sync_init(config, engine_cls=LocalEngine)
    await server.start()
    return server


def _configured(config: Any) -> tuple[Any, Any, Any]:
    """Engine arguments, those of vLLM's own server, and the whole configuration, made in this process."""
    from ray.llm._internal.serve.engines.vllm.vllm_engine import _normalize_vllm_engine_kwargs
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs
    from vllm.usage.usage_lib import UsageContext

    engine = config.get_engine_config()
    workers = "uni" if engine.num_devices == 1 else "mp"
    chosen = engine.get_initialization_kwargs() | {"distributed_executor_backend": workers}
    arguments = AsyncEngineArgs(**_normalize_vllm_engine_kwargs(chosen))
    whole = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    return arguments, FrontendArgs(**engine.frontend_kwargs), whole


async def _watch_drafts(server: "LLMServer", settings: EngineSettings) -> bool:
    """Let the engine stop drafting where that does not pay, if asked to; whether it drafts at all."""
    if settings.speculative.method != "none" and settings.speculative.adaptive:
        engine: Any = server.engine
        await engine._engine_client.collective_rpc("watch_drafts")
    return settings.speculative.method != "none"


def _log_size() -> int:
    """Bytes in this process's error log so far; the engine process writes to the same file."""
    return os.fstat(2).st_size


def _reason(error: Exception, mark: int) -> str:
    """The engine's own last error. vLLM raises 'see root cause above'; the cause stands in the log alone."""
    try:
        with open("/proc/self/fd/2", "rb") as file:
            file.seek(mark)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    # pydantic's errors have several lines; what is wrong stands after these words
    if (inner := _VALIDATION.search(str(error))) is not None:
        return inner[1].strip()
    found = [match for line in lines if (match := _ERROR_LINE.search(line)) and not match[2].startswith(_HOLLOW)]
    return f"{found[-1][1]}: {found[-1][2]}" if found else f"{type(error).__name__}: {str(error).splitlines()[0]}"
