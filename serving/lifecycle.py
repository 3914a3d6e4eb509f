"""The endpoint as a Ray Serve application: start it, wait until it answers, look at it, stop it."""

import logging
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, TaskCancelledError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from core.errors import RaymillError, UserError
from serving.door import DoorSettings, build_app
from serving.engine import EngineSettings
from serving.errors import ApiError, not_ready
from serving.replica import FAILURE_MARK, ModelReplica

APPLICATION = "raymill"
_POLL_SECONDS = 0.5
_DOOR_CPUS = 0.1
_MANY = 100_000
_STOP_SECONDS = 60
_DEATH = re.compile(r"(?:Error|Exception): (.+)")


@dataclass(frozen=True)
class ServedModel:
    """A checkpoint under the name that clients ask for."""

    model_id: str
    checkpoint: str
    settings: EngineSettings
    seed: int = 0


@dataclass(frozen=True)
class Address:
    """Where the endpoint listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{host}:{self.port}/v1"


class ReplicaBackend:
    """The door's view of a model: calls to its replicas through a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._call: Any = handle
        self._stream: Any = handle.options(stream=True)

    async def generate(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """See `ModelReplica.generate`; closing the iterator cancels the call in the replica."""
        response = self._stream.generate.remote(kind, body)
        try:
            async for part in response:
                if isinstance(part, ApiError):
                    raise part
                yield part
        except RayActorError:
            raise not_ready() from None
        finally:
            with suppress(TaskCancelledError):
                response.cancel()

    async def limits(self) -> dict[str, int]:
        """See `ModelReplica.limits`."""
        found: dict[str, int] = await self._call.limits.remote()
        return found

    async def metrics(self) -> str:
        """See `ModelReplica.metrics`."""
        return str(await self._call.metrics.remote())


@serve.ingress()
class Door:
    """The ingress deployment; its application is built in the replica, around handles to the models."""

    def __init__(self, models: dict[str, DeploymentHandle], keys: list[str], settings: DoorSettings) -> None:
        self._models = models
        self._keys = keys
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        backends = {name: ReplicaBackend(handle) for name, handle in self._models.items()}
        return build_app(backends, self._keys, self._settings)


def check_port(address: Address) -> None:
    """Raises UserError when something listens there already, or when the address cannot be listened on."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        raise UserError(
            f"port: cannot listen on {address.host}:{address.port} ({error.strerror or error}); "
            "stop what uses it (is it an endpoint? raymill serve status), or choose another with --set port=..."
        ) from None


def deploy(models: Sequence[ServedModel], address: Address, keys: Sequence[str], door: DoorSettings) -> None:
    """Start the application on the connected Ray cluster; `wait_ready` says when it answers.

    keys: SHA-256 digests. Raises UserError when the port is taken or Ray Serve is in use already; what runs then stays
    untouched. When the start itself fails, nothing of it is left.
    """
    running = _applications()
    if APPLICATION in running:
        raise UserError("an endpoint is up on this Ray cluster already; stop it first with 'raymill serve down'")
    if running:
        # One cluster has one Ray Serve: its port is theirs, and stopping ours would stop them.
        raise UserError(f"this Ray cluster serves other applications ({', '.join(running)}); use a cluster of its own")
    check_port(address)
    try:
        _run(models, address, keys, door)
    except RayActorError as error:
        shutdown()
        raise RaymillError(f"Ray Serve did not start: {' '.join(str(error).split())[:200]}") from None
    except BaseException:
        shutdown()
        raise


def _run(models: Sequence[ServedModel], address: Address, keys: Sequence[str], door: DoorSettings) -> None:
    serve.start(proxy_location="HeadOnly", http_options={"host": address.host, "port": address.port})
    handles = {model.model_id: _model_deployment(model) for model in models}
    deployment: Any = serve.deployment(Door)
    application = deployment.options(
        name="door",
        ray_actor_options={"num_cpus": _DOOR_CPUS},
        max_ongoing_requests=_MANY,  # the door has its own finite queue, with better answers
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
    ).bind(handles, list(keys), door)
    target = serve.RunTarget(target=application, name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _model_deployment(model: ServedModel) -> Any:
    deployment: Any = serve.deployment(ModelReplica)
    return deployment.options(
        name=f"model-{model.model_id}",
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": model.settings.environment()}},
        placement_group_bundles=[{"CPU": 1}],
        max_ongoing_requests=_MANY,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_timeout_s=60,
    ).bind(model.model_id, model.checkpoint, model.settings, model.seed)


def wait_ready(address: Address, timeout_s: float, tick: Callable[[float], None]) -> float:
    """Block until every model has answered a one-token probe; returns the seconds it took.

    `tick(seconds)` is called while waiting. Raises RaymillError with the engine's own reason when it does not start;
    the application is then stopped.
    """
    import httpx

    began = time.monotonic()
    while (waited := time.monotonic() - began) < timeout_s:
        tick(waited)
        status = _applications().get(APPLICATION)
        if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            reason = _failure(status)
            shutdown()
            raise RaymillError(f"the endpoint did not start: {reason}")
        if status is not None and status.status == "RUNNING":
            with suppress(httpx.HTTPError):
                if httpx.get(f"{address.url.removesuffix('/v1')}/ready", timeout=60).status_code == httpx.codes.OK:
                    return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    shutdown()
    raise RaymillError(f"the endpoint did not answer within {timeout_s:.0f} s and was stopped; raise start_timeout_s")


def _applications() -> dict[str, Any]:
    found = dict(serve.status().applications)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Serve set it to INFO when it connected
    return found


def _failure(status: Any) -> str:
    """One line from Ray's report of a failed start."""
    messages = [deployment.message for deployment in status.deployments.values()] + [status.message]
    for message in messages:
        if FAILURE_MARK in message:
            return str(message).split(FAILURE_MARK, 1)[1].splitlines()[0]
    found = [match[1] for message in messages for match in _DEATH.finditer(message)]
    return found[-1] if found else " ".join(str(status.message).split())[:300]


def status() -> list[tuple[str, str, str]]:
    """Rows of (what, state, detail) for the endpoint of the connected cluster; empty when none is up."""
    found = _applications().get(APPLICATION)
    if found is None:
        return []
    client = _get_global_client()
    assert client is not None, "serve.status() has just connected"
    options = client.http_config
    rows = [(Address(str(options.host), options.port).url, found.status.value, "")]
    for name, deployment in sorted(found.deployments.items()):
        states = ", ".join(f"{count} {str(state).lower()}" for state, count in deployment.replica_states.items())
        rows.append((name, deployment.status.value, f"replicas: {states or 'none'}"))
    return rows


def down() -> bool:
    """Stop the endpoint of the connected cluster; False when there was none."""
    up = APPLICATION in _applications()
    shutdown()
    return up


def shutdown() -> None:
    """Stop Ray Serve on the connected cluster: the application, its proxy, its controller."""
    if not ray.is_initialized():
        return
    with suppress(ValueError, RayActorError, GetTimeoutError):
        # serve.shutdown() asks the controller with endless retries, and Ray prints a warning when it dies as asked.
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_STOP_SECONDS)
    serve.shutdown()
