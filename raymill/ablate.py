"""`raymill data ablate`: mixtures to small proxy pretrainings side by side, ranked, and a law that predicts others."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from cluster import runtime
from core import config as core_config
from core.config import RUNTIME, InputPath, StageConfig
from core.errors import UserError
from core.manifest import Manifest
from core.run import Run
from core.stage import Stage
from core.storage import digest_bytes
from core.token_set import TokenSet
from data_engine.shard_map import map_tasks
from raymill import ablate_report, mixing_law
from raymill.ablate_report import Prediction, Proxy, Trials
from training import pretrain
from training.mixed_documents import MixedDocuments
from training.mixture import MixtureConfig, Weight
from training.pretrain import PretrainConfig

_SEARCHED = 20_000
"""Mixtures between the tried ones that the law is asked about, to name the best."""


class AblateConfig(StageConfig):
    """Settings of `raymill data ablate`."""

    tokens: InputPath = Field(description="run directory of 'data tokenize'")
    mixtures: dict[str, dict[str, Weight]] = Field(min_length=2, description="name -> source -> weight, to be tried")
    by: Literal["source", "language"] = Field("source", description="column of the token index that names the sources")
    max_epochs: float | None = Field(4.0, gt=0, description="how often a proxy sees a source at most; null: no limit")
    target: dict[str, Weight] | None = Field(
        None, description="source -> weight of its held-out bits per byte in the ranking; null: all alike"
    )
    predict: dict[str, dict[str, Weight]] = Field(
        default_factory=dict, description="name -> source -> weight: untried mixtures to predict"
    )
    extrapolate: bool = Field(False, description="predict mixtures that are not between the tried ones as well, marked")
    proxy: dict[str, Any] = Field(
        default_factory=dict, description="settings of train.pretrain for each proxy: model, steps, batch_size, ..."
    )
    proxies: Annotated[str | None, RUNTIME] = Field(
        None, description="folder of the proxies' run directories, reused by other ablations; null: OUTPUT-proxies"
    )

    @model_validator(mode="after")
    def _proxy_leaves_these_to_us(self) -> "AblateConfig":
        ours = {"output", "tokens", "mixture", "workers", "launcher", "threads"} & set(self.proxy)
        if ours:
            raise ValueError(f"proxy.{min(ours)} is set by the ablation itself; leave it out")
        return self


def ablate(config: AblateConfig, run: Run) -> Manifest:
    """Train every proxy that is not up to date, rank them, fit the law, predict."""
    proxies = _proxies(config)
    tokens = TokenSet(config.tokens)
    allocated = {name: _shares(proxy, tokens) for name, proxy in proxies.items()}
    sources = sorted({source for shares in allocated.values() for source in shares})
    _check_target(config, sources)
    tried = np.array([[shares[source] for source in sources] for shares in allocated.values()])
    wanted = {name: _as_row(weights, sources, f"predict.{name}") for name, weights in config.predict.items()}
    _check_between(config, tried, wanted)

    tasks = [{"name": name, "config": proxy.model_dump(mode="json")} for name, proxy in proxies.items()]
    if len(tasks) > 1:
        runtime.connect()
    trained = {result["name"]: result for result in map_tasks(run, "proxies", tasks, train_proxy)}
    trials = _trials(config, trained, allocated, sources)
    report = ablate_report.render(trials)
    reused = sum(result["reused"] for result in trained.values())
    counts = {"proxies": len(trained), "reused": reused, "tokens": sum(result["tokens"] for result in trained.values())}
    metrics = {
        "ranking": [
            {"mixture": proxy.name, "target": proxy.target, "by_source": proxy.by_source} for proxy in trials.ranked
        ],
        "fit": trials.fit,
        "predictions": [vars(prediction) for prediction in trials.predictions],
        "headline": ablate_report.headline(trials),
    }
    return run.commit(counts=counts, metrics=metrics, report=report)


def train_proxy(task: dict[str, Any]) -> dict[str, Any]:
    """Train one proxy, or reuse its artifact. task: `name` and `config` of train.pretrain."""
    config = PretrainConfig.model_validate(task["config"])
    done, reused = pretrain.STAGE.execute(config)
    return {
        "name": task["name"],
        "reused": reused,
        "tokens": done.counts["tokens"],
        "by_source": {name: row["bits_per_byte"] for name, row in done.metrics["validation_by_source"].items()},
        "loss": done.metrics["validation_loss"],
        "directory": config.output,
    }


# --- before anything runs -----------------------------------------------------------------------------------------


def _proxies(config: AblateConfig) -> dict[str, PretrainConfig]:
    """Each mixture's run, in a folder named by what it does: equal runs of other ablations are found again."""
    folder = Path(config.proxies or f"{config.output.rstrip('/')}-proxies").absolute()
    made = {}
    for name, weights in config.mixtures.items():
        mixture = {"by": config.by, "weights": weights, "max_epochs": config.max_epochs}
        settings = {"seed": config.seed, **config.proxy, "tokens": os.path.abspath(config.tokens), "mixture": mixture}
        settings |= {"workers": 0, "threads": 1, "output": str(folder)}  # one core each, side by side
        proxy = core_config.parse(PretrainConfig, settings, "proxy")
        place = digest_bytes([repr(proxy.identity()).encode()])[:12]
        made[name] = proxy.model_copy(update={"output": str(folder / place)})
    return made


def _shares(proxy: PretrainConfig, tokens: TokenSet) -> dict[str, float]:
    """The shares that a proxy will have had, after epoch caps. Raises UserError for a mixture that cannot be had."""
    documents = pretrain.training_documents(proxy, tokens)
    assert isinstance(documents, MixedDocuments)
    total = sum(documents.counts.values())
    return {source: count / total for source, count in documents.counts.items()}


def _as_row(weights: dict[str, float], sources: list[str], where: str) -> np.ndarray:
    mixture = MixtureConfig(weights=weights)
    try:
        shares = mixture.shares(dict.fromkeys(sources, 1))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return np.array([float(shares[source]) for source in sources])


def _check_target(config: AblateConfig, sources: list[str]) -> None:
    for name in config.target or {}:
        if name not in sources:
            raise UserError(f"target: {name!r} is no {config.by} of these tokens; there are: {', '.join(sources)}")
    if config.target is not None and not sum(config.target.values()):
        raise UserError("target: every weight is 0; give at least one source a weight above 0")


def _check_between(config: AblateConfig, tried: np.ndarray, wanted: dict[str, np.ndarray]) -> None:
    if wanted and len(tried) < mixing_law.mixtures_needed(tried.shape[1]):
        raise UserError(
            f"predict: a law for {tried.shape[1]} sources takes {mixing_law.mixtures_needed(tried.shape[1])} mixtures, "
            f"there are {len(tried)}; add mixtures or leave predict out"
        )
    for name, row in wanted.items():
        distance = mixing_law.distance_to_tried(tried, row)
        if not config.extrapolate and not mixing_law.is_between(tried, row):
            raise UserError(
                f"predict.{name}: is not between the tried mixtures ({distance:.2f} away in shares), and a law says "
                "little there; add a mixture beyond it, or set extrapolate: true"
            )


# --- afterwards ---------------------------------------------------------------------------------------------------


def _trials(
    config: AblateConfig, trained: dict[str, dict[str, Any]], allocated: dict[str, dict[str, float]], sources: list[str]
) -> Trials:
    measured = sorted(next(iter(trained.values()))["by_source"])  # a source may hold out nothing
    weights = {source: 1.0 if config.target is None else config.target.get(source, 0.0) for source in measured}
    total = sum(weights.values())
    if not total:
        raise UserError(f"target: none of its sources has held-out documents; those that have: {', '.join(measured)}")
    target = np.array([weights[source] / total for source in measured])
    proxies = []
    for name in config.mixtures:
        result = trained[name]
        by_source = {source: result["by_source"][source] for source in measured}
        score = float(target @ np.array(list(by_source.values())))
        proxies.append(Proxy(name, allocated[name], by_source, score, result["loss"], result["directory"]))
    trials = Trials(sources, dict(zip(measured, target.tolist(), strict=True)), proxies)
    if len(proxies) >= mixing_law.mixtures_needed(len(sources)):
        _fit(config, trials, target)
    return trials


def _fit(config: AblateConfig, trials: Trials, target: np.ndarray) -> None:
    """A law for each source's held-out text; the target is their weighted sum, as in the paper."""
    tried = np.array([[proxy.shares[source] for source in trials.sources] for proxy in trials.proxies])
    measured = np.array([list(proxy.by_source.values()) for proxy in trials.proxies])
    laws = [mixing_law.fit(tried, losses) for losses in measured.T]
    left_out = np.stack([mixing_law.leave_one_out(tried, losses) for losses in measured.T], axis=1) @ target

    def predict(rows: np.ndarray) -> np.ndarray:
        return np.stack([law.predict(rows) for law in laws], axis=1) @ target

    found = measured @ target
    errors = np.abs(left_out - found)
    guesses = np.abs((found.sum() - found) / (len(found) - 1) - found)  # of the mean of the other mixtures
    # Leaving out a corner asks for what is refused below: judged by mixtures between the others, where there are any.
    judged = mixing_law.between_the_others(tried)
    if not judged.any():
        judged[:] = True
    trials.fit = {
        "leave_one_out_error": float(errors[judged].mean()),
        "error_of_the_mean": float(guesses[judged].mean()),
        "judged_by": [proxy.name for proxy, counts in zip(trials.proxies, judged, strict=True) if counts],
        "leave_one_out_error_of_all": float(errors.mean()),
        "floors": [law.floor for law in laws],
    }
    trials.left_out = left_out.tolist()
    candidates = mixing_law.between(tried, _SEARCHED, config.seed)
    best = candidates[int(np.argmin(predict(candidates)))]
    rows = {"best by the law": best}
    rows |= {name: _as_row(weights, trials.sources, name) for name, weights in config.predict.items()}
    for name, row in rows.items():
        shares = dict(zip(trials.sources, (round(float(share), 4) for share in row), strict=True))
        value = float(predict(row[None])[0])
        trials.predictions.append(Prediction(name, shares, value, not mixing_law.is_between(tried, row)))
    if len(trials.sources) == 2:
        ends = np.linspace(tried[:, 0].min(), tried[:, 0].max(), 101)
        trials.curve = (ends.tolist(), predict(np.stack([ends, 1 - ends], axis=1)).tolist())


STAGE = Stage(name="data.ablate", version=1, config=AblateConfig, run=ablate)
