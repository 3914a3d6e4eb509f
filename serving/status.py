"""`serve status`: a table of the endpoint's models, from Ray Serve and from the engines' own metrics."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.exceptions import RayActorError

from serving import lifecycle
from serving.application import APPLICATION, DOOR
from serving.endpoint import Endpoint

COLUMNS = ["model", "state", "replicas", "adapters", "aliases", "running", "waiting", "cache", "accepted", "drafting"]
_ANSWER_SECONDS = 15.0
_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:spec_decode_num_draft_tokens_total": "drafted",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted",
    "raymill_draft_share": "drafting",
}


def overview() -> tuple[str, list[list[str]]]:
    """(a line about the endpoint, rows of `COLUMNS`). Raises UserError when none is up."""
    endpoint = lifecycle.current()
    application = lifecycle.applications()[APPLICATION]
    door = application.deployments.get(DOOR)
    states = application.status.value.lower(), door.status.value.lower() if door is not None else "absent"
    line = f"{endpoint.address.url}: {states[0]}, door {states[1]}"
    return line, rows(endpoint, application.deployments, _metrics())


def _metrics() -> str:
    handle: Any = serve.get_deployment_handle(DOOR, APPLICATION)
    try:
        return str(handle.engine_metrics.remote().result(timeout_s=_ANSWER_SECONDS))
    except (RayActorError, TimeoutError):
        return ""


def rows(endpoint: Endpoint, deployments: Any, metrics: str) -> list[list[str]]:
    """One for each model; a figure that its engines do not tell is left out."""
    sums, counts = _figures(metrics)
    table = []
    for model in endpoint.models:
        name, found = model.config.model_id, deployments.get(model.deployment)
        states = found.replica_states.items() if found is not None else ()
        mine = {what: sums.get((name, what)) for what in _METRICS.values()}
        table.append(
            [
                name,
                found.status.value.lower() if found is not None else "absent",
                ", ".join(f"{count} {str(getattr(state, 'value', state)).lower()}" for state, count in states)
                or "none",
                ", ".join(model.adapters),
                ", ".join(model.config.aliases),
                _whole(mine["running"]),
                _whole(mine["waiting"]),
                _share(mine["cache"], counts.get((name, "cache"))),
                _share(mine["accepted"], mine["drafted"]),
                _share(mine["drafting"], counts.get((name, "drafting"))),
            ]
        )
    return table


def _figures(metrics: str) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], int]]:
    sums: dict[tuple[str, str], float] = {}
    counts: dict[tuple[str, str], int] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if (what := _METRICS.get(sample.name)) is not None:
                key = sample.labels.get("model_name", ""), what
                sums[key] = sums.get(key, 0.0) + sample.value
                counts[key] = counts.get(key, 0) + 1
    return sums, counts


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.0%}" if part is not None and whole else ""
