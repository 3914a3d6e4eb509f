"""The endpoint's life on a Ray cluster: start it, wait until it answers, change it, stop it."""

import logging
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from core.errors import RaymillError, UserError
from serving.application import APPLICATION, DOOR, build
from serving.auth import Key
from serving.door_settings import DoorConfig
from serving.endpoint import Address, Endpoint, ServedModel
from serving.replica import FAILURE_MARK

_POLL_SECONDS = 0.5
_STOP_SECONDS = 60
_DEATH = re.compile(r"(?:Error|Exception): (.+)")
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


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


def deploy(models: Sequence[ServedModel], address: Address, keys: Sequence[Key], door: DoorConfig) -> None:
    """Start the application on the connected Ray cluster; `wait_ready` says when it answers.

    keys: those that hold beside the ones of `door.keys_file`. Raises UserError when the port is taken or Ray Serve is
    in use already; what runs then stays untouched. When the start itself fails, nothing of it is left.
    """
    running = applications()
    if APPLICATION in running:
        raise UserError(
            "an endpoint is up on this Ray cluster already; change it with 'raymill serve update', or stop it first "
            "with 'raymill serve down'"
        )
    if running:
        # One cluster has one Ray Serve: its port is theirs, and stopping ours would stop them.
        raise UserError(f"this Ray cluster serves other applications ({', '.join(running)}); use a cluster of its own")
    check_port(address)
    try:
        serve.start(proxy_location="Disabled")  # the door listens itself
        endpoint = Endpoint(models=list(models), keys=list(keys), door=door, host=address.host, port=address.port)
        run(endpoint, models)
    except RayActorError as error:
        shutdown()
        raise RaymillError(f"Ray Serve did not start: {' '.join(str(error).split())[:200]}") from None
    except BaseException:
        shutdown()
        raise


def run(endpoint: Endpoint, models: Sequence[ServedModel]) -> None:
    """Tell Ray Serve what is to run: the door of `endpoint`, and these models; what runs as told already runs on."""
    target = serve.RunTarget(
        target=build(endpoint, models),
        name=APPLICATION,
        route_prefix="/",
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def wait_ready(address: Address, timeout_s: float, tick: Callable[[float], None]) -> float:
    """Block until every model has answered a one-token probe; returns the seconds it took.

    `tick(seconds)` is called while waiting. Raises RaymillError with the engine's own reason when it does not start;
    the application is then stopped.
    """
    import httpx

    began, ready = time.monotonic(), f"{address.url.removesuffix('/v1')}/ready"
    while (waited := time.monotonic() - began) < timeout_s:
        tick(waited)
        status = applications().get(APPLICATION)
        if status is not None and status.status in _FAILED:
            reason = failure(status)
            shutdown()
            raise RaymillError(f"the endpoint did not start: {reason}")
        if status is not None and status.status == "RUNNING":
            with suppress(httpx.HTTPError):
                if httpx.get(ready, timeout=60, verify=address.verify).status_code == httpx.codes.OK:
                    return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    shutdown()
    raise RaymillError(f"the endpoint did not answer within {timeout_s:.0f} s and was stopped; raise start_timeout_s")


def settle(timeout_s: float) -> str | None:
    """Block until Ray Serve runs what it was told to; returns why not when that fails or takes longer."""
    deadline, waits_for = time.monotonic() + timeout_s, ["Ray Serve"]
    while time.monotonic() < deadline:
        status = applications().get(APPLICATION)
        if status is None or status.status in _FAILED:
            return failure(status) if status is not None else "it was stopped by somebody else"
        waits_for = [name for name, one in status.deployments.items() if one.status == "UPDATING"]
        if status.status == "RUNNING" and not waits_for:
            return None
        time.sleep(_POLL_SECONDS)
    return (
        f"{', '.join(waits_for)} took longer than {timeout_s:.0f} s; raise start_timeout_s, or let the engines claim "
        "less of Ray's CPUs (replicas.cpus)"
    )


def applications() -> dict[str, Any]:
    """What Ray Serve runs on the connected cluster, by name."""
    found = dict(serve.status().applications)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Serve set it to INFO when it connected
    return found


def failure(status: Any) -> str:
    """One line from Ray's report of a failed start."""
    for name, deployment in status.deployments.items():
        if FAILURE_MARK in deployment.message:
            reason = str(deployment.message).split(FAILURE_MARK, 1)[1].splitlines()[0]
            return f"{name.replace('-', ' ', 1)}: {reason}"
    messages = [deployment.message for deployment in status.deployments.values()] + [status.message]
    found = [match[1] for message in messages for match in _DEATH.finditer(message)]
    return found[-1] if found else " ".join(str(status.message).split())[:300]


def current() -> Endpoint:
    """The endpoint that runs on the connected cluster. Raises UserError when there is none."""
    if APPLICATION not in applications():
        raise UserError("no endpoint runs here; start one with 'raymill serve up CONFIG --set keep=true'")
    client = _get_global_client()
    assert client is not None, "serve.status() has just connected"
    details: Mapping[str, Any] = client.get_serve_details()
    door = details["applications"][APPLICATION]["deployments"][DOOR]["deployment_config"]
    return Endpoint.model_validate(door["user_config"]["endpoint"])


def is_up() -> bool:
    """Whether the connected cluster has an endpoint, in whatever state."""
    return APPLICATION in applications()


def down() -> bool:
    """Stop the endpoint of the connected cluster; False when there was none."""
    up = is_up()
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
