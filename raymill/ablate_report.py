"""The page of `data ablate`: mixtures by rank, what the law says, and how far to trust it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.report import ACCENT, INK, MUTED, SECOND, Report, bar_chart, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Proxy:
    """One tried mixture: shares it had, held-out bits per byte of each source, and their weighted sum."""

    name: str
    shares: dict[str, float]
    by_source: dict[str, float]
    target: float
    loss: float
    directory: str


@dataclass
class Prediction:
    """What the law says of an untried mixture."""

    name: str
    shares: dict[str, float]
    target: float
    extrapolated: bool


@dataclass
class Trials:
    """All of it. fit is empty where there were too few mixtures for a law; left_out is in the order of proxies."""

    sources: list[str]
    weights: dict[str, float]
    proxies: list[Proxy]
    fit: dict[str, Any] = field(default_factory=dict)
    left_out: list[float] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    curve: tuple[list[float], list[float]] | None = None

    @property
    def ranked(self) -> list[Proxy]:
        """The best first."""
        return sorted(self.proxies, key=lambda proxy: (proxy.target, proxy.name))


def headline(trials: Trials) -> list[str]:
    """What came out, in numbers."""
    ranked = trials.ranked
    lines = [
        f"best of {len(ranked)} mixtures: {ranked[0].name} ({_shown(ranked[0].shares)}), {ranked[0].target:.4f} bits "
        f"per byte; worst: {ranked[-1].name}, {ranked[-1].target:.4f}"
    ]
    if trials.fit:
        best = trials.predictions[0]
        lines.append(
            f"the law's best between them: {_shown(best.shares)}, {best.target:.4f} predicted; a mixture left out it "
            f"misses by {trials.fit['leave_one_out_error']:.4f}, the mean of the others by "
            f"{trials.fit['error_of_the_mean']:.4f}"
        )
    return lines


def render(trials: Trials) -> Report:
    """The whole page."""
    ranked = trials.ranked
    report = Report("Mixture ablation", f"{len(ranked)} mixtures of {len(trials.sources)} sources")
    sources = list(trials.weights)
    report.table(
        "Ranking",
        ["rank", "mixture", "shares", "target", *sources, "validation loss"],
        [
            [rank, proxy.name, _shown(proxy.shares), proxy.target, *proxy.by_source.values(), proxy.loss]
            for rank, proxy in enumerate(ranked, 1)
        ],
        "Held-out bits per byte, lower is better; the target is their sum weighted by "
        f"{_shown(trials.weights)}. Shares are those that the run had, after epoch caps. The validation loss is that "
        "of all held-out documents together, in nats per token.",
    )
    report.figure("Target of each mixture", bar_chart({proxy.name: proxy.target for proxy in ranked}, "bits per byte"))
    if not trials.fit:
        report.facts(
            "Law", {"fitted": "no"}, f"A law for {len(trials.sources)} sources takes one mixture more than sources."
        )
        return report
    error, guess = trials.fit["leave_one_out_error"], trials.fit["error_of_the_mean"]
    report.facts(
        "How far to trust the law",
        {
            "leave-one-out error": error,
            "error of guessing the mean": guess,
            "leave-one-out error, corners too": trials.fit["leave_one_out_error_of_all"],
            "spread of the mixtures": _spread(trials),
        },
        f"Mean absolute errors in bits per byte, the first two over {', '.join(trials.fit['judged_by'])}. "
        + (
            "The law predicts a mixture that it has not seen better than the mean of the others does."
            if error < guess
            else "It predicts no better than the mean of the others: add mixtures or longer proxies before using it."
        ),
    )
    report.table(
        "Predicted",
        ["mixture", "shares", "target", "kind"],
        [
            [p.name, _shown(p.shares), p.target, "extrapolated" if p.extrapolated else "between tried mixtures"]
            for p in trials.predictions
        ],
        "L(r) = c + exp(t . r) for each source's held-out text (Ye et al. 2024, arXiv:2403.16952).",
    )
    report.figure("Left out and predicted", _scatter(trials), "Each mixture by a law that was fitted without it.")
    if trials.curve is not None:
        report.figure("The law", _curve(trials))
    return report


def _spread(trials: Trials) -> float:
    return trials.ranked[-1].target - trials.ranked[0].target


def _shown(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)


def _scatter(trials: Trials) -> "Figure":
    figure = new_figure(width=5.0, height=4.0)
    axes = figure.subplots()
    measured = [proxy.target for proxy in trials.proxies]
    low, high = min([*measured, *trials.left_out]), max([*measured, *trials.left_out])
    axes.plot([low, high], [low, high], color=MUTED, linestyle="--", linewidth=1.0)
    axes.scatter(measured, trials.left_out, color=ACCENT, s=24)
    for proxy, predicted in zip(trials.proxies, trials.left_out, strict=True):
        axes.annotate(proxy.name, (proxy.target, predicted), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("measured bits per byte")
    axes.set_ylabel("predicted")
    return figure


def _curve(trials: Trials) -> "Figure":
    assert trials.curve is not None
    figure = new_figure()
    axes = figure.subplots()
    first = trials.sources[0]
    axes.plot(*trials.curve, color=INK, linewidth=1.4, label="law")
    axes.scatter(
        [p.shares[first] for p in trials.proxies], [p.target for p in trials.proxies], color=ACCENT, label="tried"
    )
    best = trials.predictions[0]
    axes.scatter([best.shares[first]], [best.target], color=SECOND, marker="x", label=best.name, zorder=3)
    axes.set_xlabel(f"share of {first}")
    axes.set_ylabel("bits per byte")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure
