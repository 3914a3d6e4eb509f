"""The Grafana dashboard of an endpoint, rendered into grafana.json: `python -m serving.dashboard`."""

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("grafana.json")
_DOOR, _ENGINE = 'model=~"$model"', 'model_name=~"$model"'
_WIDTH, _HEIGHT = 8, 8


def _quantile(share: float, metric: str, who: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{who}}}[$__rate_interval])))"


def _rate(metric: str, who: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{who}}}[$__rate_interval]))"


def _percentiles(metric: str, who: str, by: str) -> dict[str, str]:
    return {f"p{100 * share:.0f} {{{{{by}}}}}": _quantile(share, metric, who, by) for share in (0.5, 0.99)}


def _panels() -> dict[str, tuple[str, dict[str, str]]]:
    """(unit, query by legend) by title, row by row."""
    accepted = _rate("vllm:spec_decode_num_accepted_tokens_total", _ENGINE, "model_name")
    drafted = _rate("vllm:spec_decode_num_draft_tokens_total", _ENGINE, "model_name")
    hits = _rate("vllm:prefix_cache_hits_total", _ENGINE, "model_name")
    looked = _rate("vllm:prefix_cache_queries_total", _ENGINE, "model_name")
    return {
        "Requests": ("reqps", {"{{model}} {{status}}": _rate("raymill_requests_total", _DOOR, "model, status")}),
        "Time to first token": ("s", _percentiles("raymill_time_to_first_token_seconds", _DOOR, "model")),
        "Time per output token": ("s", _percentiles("raymill_time_per_output_token_seconds", _DOOR, "model")),
        "Whole requests": ("s", _percentiles("raymill_request_seconds", _DOOR, "model")),
        "Waiting for the engine": ("s", _percentiles("raymill_engine_seconds", _DOOR, "model")),
        "The door itself": ("s", _percentiles("raymill_door_before_engine_seconds", _DOOR, "model")),
        "Tokens": ("short", {"{{model}} {{kind}}": _rate("raymill_tokens_total", _DOOR, "model, kind")}),
        "Tokens by key": ("short", {"{{key}}": _rate("raymill_tokens_total", _DOOR, "key")}),
        "Clients that left": ("reqps", {"{{model}}": _rate("raymill_clients_left_total", _DOOR, "model")}),
        "Queue": (
            "short",
            {
                "inside {{model}}": f"sum by (model) (raymill_requests_inside{{{_DOOR}}})",
                "limit {{model}}": f"sum by (model) (raymill_requests_limit{{{_DOOR}}})",
                "running {{model_name}}": f"sum by (model_name) (vllm:num_requests_running{{{_ENGINE}}})",
                "waiting {{model_name}}": f"sum by (model_name) (vllm:num_requests_waiting{{{_ENGINE}}})",
            },
        ),
        "Keys and values in use": (
            "percentunit",
            {"{{model_name}} {{replica}}": f"vllm:kv_cache_usage_perc{{{_ENGINE}}}"},
        ),
        "Prompt tokens from the cache": ("percentunit", {"{{model_name}}": f"{hits} / {looked}"}),
        "Accepted drafts": ("percentunit", {"{{model_name}}": f"{accepted} / {drafted}"}),
        "Steps that draft": ("percentunit", {"{{model_name}} {{replica}}": f"raymill_draft_share{{{_ENGINE}}}"}),
        "Engine: time in its queue": ("s", _percentiles("vllm:request_queue_time_seconds", _ENGINE, "model_name")),
    }


def metrics() -> set[str]:
    """Every metric that the dashboard asks for, as its samples are named."""
    queries = " ".join(query for _, chosen in _panels().values() for query in chosen.values())
    return set(re.findall(r"(?:vllm:|raymill_)\w+", queries))


def render() -> str:
    """The dashboard as Grafana imports it."""
    panels = [_panel(number, title, unit, queries) for number, (title, (unit, queries)) in enumerate(_panels().items())]
    board = {
        "title": "Raymill endpoint",
        "uid": "raymill-endpoint",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _models()]},
        "panels": panels,
    }
    return json.dumps(board, indent=1) + "\n"


def _panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, 24 // _WIDTH)
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": {"uid": "${source}"}}
        for place, (legend, query) in enumerate(queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _models() -> dict[str, Any]:
    query = "label_values(raymill_requests_limit, model)"
    return {
        "name": "model",
        "type": "query",
        "label": "Model",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": {"query": query, "refId": "models"},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
