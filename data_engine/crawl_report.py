"""What a crawl says about itself: the funnel, status codes, sizes, speed over time, failures."""

from typing import Any

from core.report import Report, bar_chart, line_chart
from data_engine.frontier import Frontier, State

_FAILURES_SHOWN = 50
_POINTS = 60
_SHORTEST_SLICE = 0.25  # seconds
_REASONS = (
    "outside_scope: not under the allowed hosts and paths; max_depth: too many links from a seed; noindex: the page "
    "asks not to be stored; http_404: the server's answer."
)

_STATUSES = "SELECT status, count(*) FROM urls WHERE status IS NOT NULL GROUP BY 1 ORDER BY 1"
_MEDIA = "SELECT media_type, count(*) FROM urls WHERE state = 'fetched' GROUP BY 1 ORDER BY 2 DESC, 1"
_SIZES = "SELECT sum(payload_bytes), sum(wire_bytes), sum(length), max(payload_bytes) FROM urls WHERE state = 'fetched'"
_DEPTHS = "SELECT depth, count(*) FROM urls WHERE state = 'fetched' GROUP BY 1 ORDER BY 1"
_HOSTS = "SELECT host, count(*) FROM urls WHERE state = 'fetched' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20"
_TIMES = "SELECT finished_at FROM urls WHERE state = 'fetched' ORDER BY 1"
_FAILURES = f"""
SELECT url, reason, coalesce(detail, ''), tries, coalesce(via, '') FROM urls
WHERE state IN ('failed', 'too_large') ORDER BY reason, url LIMIT {_FAILURES_SHOWN}
"""  # noqa: S608


def _headline(counts: dict[str, Any], payload: int, speed: float) -> list[str]:
    others = ", ".join(
        f"{counts[state.value]:,} {state.value.replace('_', ' ')}"
        for state in State
        if state is not State.FETCHED and counts[state.value]
    )
    return [
        f"{counts['fetched']:,} pages fetched, {payload / 1e6:.1f} MB, {speed:.0f} pages/s",
        f"{counts['seen']:,} URLs seen" + (f"; not fetched: {others}" if others else ""),
    ]


def describe(frontier: Frontier, counts: dict[str, Any], seconds: float, earlier: int) -> tuple[dict[str, Any], Report]:
    """Metrics of the manifest, and the report.

    counts: as in the manifest; seconds: of this run; earlier: pages that runs interrupted before this one fetched.
    """
    payload, wire, stored, largest = (size or 0 for size in frontier.query(_SIZES)[0])
    metrics: dict[str, Any] = {
        "pages_per_second": round((counts["fetched"] - earlier) / max(seconds, 1e-9), 2),
        "payload_bytes": payload,
        "wire_bytes": wire,
        "warc_bytes": stored,
        "largest_page_bytes": largest,
        "statuses": {str(status): count for status, count in frontier.query(_STATUSES)},
        "fetched_by_depth": {str(depth): count for depth, count in frontier.query(_DEPTHS)},
    }
    metrics["headline"] = _headline(counts, payload, metrics["pages_per_second"])
    report = Report("Crawl", "Every URL seen, and what became of it.")
    report.facts(
        "In short",
        {
            "pages fetched": counts["fetched"],
            "URLs seen": counts["seen"],
            "megabytes of pages": payload / 1e6,
            "megabytes of WARC": stored / 1e6,
            "seconds": round(seconds, 1),
            "pages per second": metrics["pages_per_second"],
        },
    )
    funnel = {"seen": counts["seen"]} | {state.value.replace("_", " "): counts[state.value] for state in State}
    report.figure("Funnel", bar_chart(funnel, "URLs"), "The states add up to the URLs seen.")
    reasons = [
        (name.removesuffix("_by_reason"), reason, count)
        for name in ("filtered_by_reason", "failed_by_reason")
        for reason, count in counts[name].items()
    ]
    report.table("Filtered and failed", ("state", "reason", "URLs"), reasons, _REASONS)
    report.table("Status codes", ("status", "answers"), frontier.query(_STATUSES), "The last answer for each URL.")
    report.table("Media types", ("media type", "pages"), [(name or "none", n) for name, n in frontier.query(_MEDIA)])
    report.table("Hosts", ("host", "pages"), frontier.query(_HOSTS), "The 20 largest.")
    report.table("Distance from a seed", ("links followed", "pages"), frontier.query(_DEPTHS))
    times = [row[0] for row in frontier.query(_TIMES)]
    report.figure(
        "Speed",
        line_chart({"pages": _rate(times)}, "seconds since the first page", "pages per second"),
        _gap_note(earlier),
    )
    report.table("Failures", ("URL", "reason", "detail", "tries", "linked from"), _failures(frontier))
    return metrics, report


def _rate(times: list[float]) -> tuple[list[float], list[float]]:
    """Pages per second in equal slices of the time from the first page to the last, each at its middle."""
    span = max(times[-1] - times[0], 1e-3)
    slices = min(_POINTS, max(1, int(span / _SHORTEST_SLICE)))
    width = span / slices
    counts = [0] * slices
    for moment in times:
        counts[min(int((moment - times[0]) / width), slices - 1)] += 1
    return [(index + 0.5) * width for index in range(slices)], [count / width for count in counts]


def _gap_note(earlier: int) -> str:
    return f"{earlier:,} pages are from a run that was interrupted." if earlier else ""


def _failures(frontier: Frontier) -> list[tuple]:
    return [
        (url, reason or "too_large", detail, tries, via)
        for url, reason, detail, tries, via in frontier.query(_FAILURES)
    ]
