"""The endpoint as a Ray Serve application: a door, the models behind it, and what Ray Serve is told about both."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from core import storage
from core.config import Config
from serving import engine_metrics
from serving.auth import Key, KeyRing
from serving.catalogue import Catalogue
from serving.certificate import Renewal
from serving.door import build_app
from serving.endpoint import Endpoint, ServedModel
from serving.errors import ApiError, not_ready
from serving.listener import Listener
from serving.replica import ModelReplica

APPLICATION = "raymill"
DOOR = "door"
_DOOR_CPUS = 0.1
_MANY = 100_000
_PAUSES = (0.2, 1.0)
_ALL_SECONDS = 28.0
_LEAN = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""One event loop in the door instead of three: a third of its work for each event was handing it on."""
_ROUTING = _LEAN | {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"}
"""Where requests are routed by their prefix: that router waits for its tree, and would hold everything else up."""
_NOT_READY = not_ready().code
log = logging.getLogger("ray.serve")


# --- inside the cluster -------------------------------------------------------------------------------------------


class ReplicaBackend:
    """The door's view of a model: calls to its replicas through a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._call: Any = handle
        # Between the processes themselves: by reference each event would be an object of Ray's, with an owner to ask.
        self._stream: Any = handle.options(
            stream=True, _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )

    async def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """See `ModelReplica.generate`; closing the iterator cancels the call in the replica.

        A replica that dies before its first part is no reason to fail: another one is asked, or the next one waited
        for, as long as the caller waits.
        """
        pauses, begun = iter(_PAUSES), False
        while True:
            try:
                async with aclosing(self._once(kind, body)) as parts:
                    async for part in parts:
                        begun = True
                        yield part
            except ApiError as error:
                if begun or error.code != _NOT_READY or (pause := next(pauses, None)) is None:
                    raise
            except (RayActorError, DeploymentUnavailableError, AioRpcError):
                if begun or (pause := next(pauses, None)) is None:
                    raise not_ready() from None
            else:
                return
            await asyncio.sleep(pause)

    async def _once(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        response = self._stream.generate.remote(kind, body)
        try:
            async for part in response:
                if isinstance(part, ApiError):
                    raise part
                yield part
        finally:
            with suppress(TaskCancelledError):
                response.cancel()

    async def limits(self) -> dict[str, int]:
        """See `ModelReplica.limits`."""
        found: dict[str, int] = await self._call.limits.remote()
        return found

    async def alive(self, kind: str, body: dict[str, Any]) -> bool:
        """See `ModelReplica.alive`; of every replica. One that has died is none: others are asked in its place."""
        answers = await _of_all(self._call, "alive", kind, body)
        found = [answer for answer in answers if not isinstance(answer, RayActorError)]
        return bool(found) and all(answer is True for answer in found)

    async def metrics(self) -> str:
        """See `ModelReplica.metrics`; of every replica that answers."""
        texts = await _of_all(self._call, "metrics")
        return engine_metrics.join(text for text in texts if isinstance(text, str))


async def _of_all(handle: Any, method: str, *arguments: Any) -> list[Any]:
    """What each replica answers, an exception in the place of an answer that did not come; nothing when there is none
    that runs. It wakes no model that sleeps."""
    try:
        answers: list[Any] = await handle.broadcast(method, *arguments).results_async(
            timeout_s=_ALL_SECONDS, return_exceptions=True
        )
    except DeploymentUnavailableError:
        return []
    except (RayActorError, RayServeException, TimeoutError):
        log.exception("%s: the replicas did not answer", method)
        return []
    return answers


class Door:
    """The ingress deployment. It listens itself: Ray Serve's proxy in front of it took 17 ms of a first token at
    concurrency 1 and 320 ms at 32."""

    def __init__(self, endpoint: Endpoint, models: Sequence[DeploymentHandle]) -> None:
        """Keys, limits and address of `endpoint`; its models come with `reconfigure`.

        `models` makes them part of the application; they are called by name, since the listing may change.
        """
        self._endpoint = endpoint
        self._catalogue = Catalogue(_connect)
        self._listener: Listener | None = None
        self._renewal: Renewal | None = None

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve another listing from now on; the first one opens the door."""
        self._catalogue.update(user_config["listing"])
        if self._listener is None:
            self._listener = await self._listen()

    async def _listen(self) -> Listener:
        door, address = self._endpoint.door, self._endpoint.address
        app = build_app(self._catalogue, KeyRing(self._endpoint.keys, door.keys_file), door)
        listener = Listener(app, address.host, address.port, door.tls_certificate, door.tls_key, door.max_connections)
        if door.tls_certificate is not None:
            self._renewal = Renewal(door.tls_certificate, door.tls_key)
        await listener.start()
        return listener

    async def check_health(self) -> None:
        """Raises RuntimeError when it does not listen any more; Ray Serve then replaces it.

        Ray Serve asks every ten seconds, which is when a certificate that was renewed is looked for too.
        """
        if self._listener is None:
            return
        if not self._listener.alive:
            raise RuntimeError("the door does not listen any more")
        if self._renewal is not None and self._listener.tls is not None:
            self._renewal.check(self._listener.tls)

    async def engine_metrics(self) -> str:
        """Metrics of every engine, for `serve status`, which has no key."""
        return engine_metrics.join([await served.backend.metrics() for served in self._catalogue.models()])

    async def __del__(self) -> None:
        if self._listener is not None:
            await self._listener.stop(max(1.0, _drain_s(self._endpoint) - 1))


def _connect(deployment: str) -> ReplicaBackend:
    return ReplicaBackend(serve.get_deployment_handle(deployment, APPLICATION, _check_exists=False))


def _drain_s(endpoint: Endpoint) -> float:
    return max(model.config.replicas.drain_s for model in endpoint.models)


# --- what Ray Serve is told ---------------------------------------------------------------------------------------


def build(endpoint: Endpoint, models: Iterable[ServedModel]) -> Any:
    """The application: the door as `endpoint` has it, and these models behind it.

    Ray Serve gives each deployment of `serve.run` a random version, so that running again replaces every replica; with
    a version of our own what has not changed runs on.
    """
    handles = [_model_deployment(model) for model in models]
    deployment: Any = serve.deployment(Door)
    return deployment.options(
        name=DOOR,
        version=_digest(endpoint.keys, endpoint.door.model_copy(update={"max_waiting": 0})),
        user_config={"listing": endpoint.listing(), "endpoint": endpoint.model_dump(mode="json")},
        ray_actor_options={
            "num_cpus": _DOOR_CPUS,
            "resources": {"node:__internal_head__": 0.001},  # clients know one address
            "runtime_env": {"env_vars": _ROUTING if any(map(_is_routed, endpoint.models)) else _LEAN},
        },
        max_ongoing_requests=_MANY,  # the door has its own finite queue, with better answers
        max_surge_percent=100,  # both listen on the one port for a moment
        graceful_shutdown_timeout_s=_drain_s(endpoint),
        graceful_shutdown_wait_loop_s=0.2,
        _internal=True,
    ).bind(endpoint, handles)


def _is_routed(model: ServedModel) -> bool:
    return model.config.replicas.max > 1


def _model_deployment(model: ServedModel) -> Any:
    config, replicas = model.config, model.config.replicas
    options: dict[str, Any] = {"num_replicas": replicas.min}
    if not replicas.fixed:
        options = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.min,
                max_replicas=replicas.max,
                initial_replicas=max(1, replicas.min),  # a model that cannot start is told at once
                target_ongoing_requests=float(config.max_num_seqs),
                look_back_period_s=max(11.0, min(30.0, replicas.busy_s)),  # figures come every 10 s
                upscale_delay_s=replicas.busy_s,
                downscale_delay_s=replicas.idle_s,
            )
        }
    if _is_routed(model):
        options["request_router_config"] = RequestRouterConfig(
            request_router_class="serving.prefix_router.PrefixRouter",  # type: ignore[arg-type]  # it takes a path
            request_router_kwargs={"imbalanced_threshold": config.max_num_seqs},
        )
    claimed: dict[str, float] = {"CPU": replicas.cpus}
    if config.gpus:
        claimed["GPU"] = config.gpus
    deployment: Any = serve.deployment(ModelReplica)
    return deployment.options(
        name=model.deployment,
        version=model.version,
        user_config={"adapters": {name: list(found) for name, found in model.adapters.items()}},
        ray_actor_options={
            "num_cpus": replicas.cpus,
            "num_gpus": config.gpus,
            "runtime_env": {"env_vars": config.engine.environment()},
        },
        placement_group_bundles=[claimed],
        max_ongoing_requests=_MANY,
        max_constructor_retry_count=1,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=replicas.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        health_check_timeout_s=60,
        _internal=True,
        **options,
    ).bind(config.model_id, config.checkpoint, config.engine, config.seed)


def _digest(keys: Sequence[Key], *configs: Config) -> str:
    return storage.digest_bytes(part.model_dump_json().encode() for part in (*keys, *configs))
