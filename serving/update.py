"""`serve update`: a running endpoint becomes what a configuration says, without a request that fails.

First what is new starts beside what is old; then the door's listing changes, in one assignment; then what nobody is
sent to any more ends its requests and stops. When the first step fails, it is taken back and the old goes on.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError

from core.errors import RaymillError, UserError
from serving import checks, lifecycle
from serving.application import APPLICATION
from serving.endpoint import Endpoint, ServedModel
from serving.engine import ModelConfig
from serving.up_config import UpConfig

_ADAPTER_SECONDS = 120.0
log = logging.getLogger("raymill.serve.update")


def update(config: UpConfig) -> list[str]:
    """Apply the difference; returns a line for each change.

    Raises UserError for what takes a new start, and for what `checks.served` refuses; RaymillError when something new
    did not start: then the endpoint is what it was before.
    """
    old = lifecycle.current()
    if (config.host, config.port) != (old.host, old.port):
        raise UserError(f"host and port: the endpoint listens on {old.host}:{old.port}; another takes a start")
    if config.door.tls_certificate != old.door.tls_certificate and None in (
        config.door.tls_certificate,
        old.door.tls_certificate,
    ):
        raise UserError("tls_certificate: clients cannot go from http to https or back; that takes a new start")
    if config.formats:
        raise UserError("formats: an update does not measure while others ask; name the checkpoint of one of them")
    models = [checks.served(_with_slots(model, old)) for model in config.served]
    new = old.model_copy(update={"models": models, "door": config.door})
    checks.check_names(new)
    lines = list(differences(old, new))
    if new != old:
        apply(old, new, config.start_timeout_s)
    return lines or ["nothing has changed"]


def _with_slots(model: ModelConfig, old: Endpoint) -> ModelConfig:
    """An engine that has slots keeps them when its last adapter goes: without, another engine would have to start."""
    before = old.model(model.model_id)
    slots = before.config.engine.adapter_slots if before is not None else 0
    return model.model_copy(update={"adapter_slots": slots}) if slots and not model.adapter_slots else model


def apply(old: Endpoint, new: Endpoint, timeout_s: float) -> None:
    """Make the running endpoint `old` the endpoint `new`; see the module."""
    both = merged(old, new)
    if both != old.models:
        log.info("starting what is new beside what is old")
        _roll(old, both, timeout_s, back_to=old)
    log.info("changing the door's listing")
    _roll(new, both, timeout_s, back_to=old)
    if both != new.models:
        log.info("stopping what is old")
        _roll(new, new.models, timeout_s, back_to=None)


def merged(old: Endpoint, new: Endpoint) -> list[ServedModel]:
    """Every model of both; one that is in both as it shall be, with the adapters of both."""
    found = []
    for model in new.models:
        before = old.model(model.config.model_id)
        adapters = {**(before.adapters if before is not None else {}), **model.adapters}
        found.append(model.model_copy(update={"adapters": adapters}))
    return found + [model for model in old.models if new.model(model.config.model_id) is None]


def _roll(endpoint: Endpoint, models: Sequence[ServedModel], timeout_s: float, back_to: Endpoint | None) -> None:
    lifecycle.run(endpoint, models)
    problem = lifecycle.settle(timeout_s) or _adapter_missing(models)
    if problem is None:
        return
    if back_to is not None:
        lifecycle.run(back_to, back_to.models)
        lifecycle.settle(timeout_s)
        raise RaymillError(f"the update failed and was taken back: {problem}")
    raise RaymillError(f"the endpoint is updated, but does not come to rest: {problem}")


def _adapter_missing(models: Sequence[ServedModel]) -> str | None:
    """A replica loads adapters without a word when they do not load: it must live on."""
    for model in models:
        if not model.adapters:
            continue
        handle: Any = serve.get_deployment_handle(model.deployment, APPLICATION)
        try:
            answers = handle.broadcast("adapters").results(timeout_s=_ADAPTER_SECONDS)
        except DeploymentUnavailableError:  # a model that sleeps: its next replica loads them
            continue
        for loaded in answers:
            for name, (path, identity) in model.adapters.items():
                if loaded.get(name) != identity:
                    return f"vLLM does not load the adapter {name} from {path}; the log of the replica says why"
    return None


def differences(old: Endpoint, new: Endpoint) -> Iterator[str]:
    """What changes, in words."""
    for model in new.models:
        name, before = model.config.model_id, old.model(model.config.model_id)
        if before is None:
            yield f"model {name}: added"
            continue
        if model.version != before.version:
            yield f"model {name}: another engine"
        yield from _named(f"model {name}: adapter", before.adapters, model.adapters)
        was, becomes = (dict.fromkeys(one.config.aliases) for one in (before, model))
        yield from _named(f"model {name}: alias", was, becomes)
        if model.config.replicas != before.config.replicas:
            yield f"model {name}: replicas"
    yield from (f"model {one.config.model_id}: removed" for one in old.models if new.model(one.config.model_id) is None)
    for setting in type(new.door).model_fields:
        if getattr(new.door, setting) != getattr(old.door, setting):
            yield f"{setting}: {getattr(new.door, setting)}"


def _named(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{what} {name}: added" for name in new if name not in old)
    yield from (f"{what} {name}: changed" for name in new if name in old and new[name] != old[name])
    yield from (f"{what} {name}: removed" for name in old if name not in new)
