"""`eval compare`: a planted regression is found and exits non-zero, noise is not called one."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import manifest
from core.errors import RaymillError, UserError
from evaluation.compare import STAGE, CompareConfig
from evaluation.run import SAMPLES
from tests.evaluation.fixtures import write_manifest


def write_scores(directory, models, groups=None, metric="acc"):
    """An artifact of `eval run` with the given sample values: model -> (n,) of numerators; weight 100 for bits."""
    directory.mkdir()
    rows = [
        {
            "model": model,
            "task": "choice",
            "id": str(number),
            "group": "" if groups is None else str(groups[number]),
            "values": [(metric, float(value))],
            "weight": 1.0 if metric == "acc" else 100.0,
        }
        for model, values in models.items()
        for number, value in enumerate(values)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SAMPLES), directory / "samples.parquet")
    (directory / "scores.json").write_text("{}")
    write_manifest(directory, "eval.run")
    return directory


def hits(share, n=200, seed=0):
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def compare(tmp_path, scores, gate=None, **changes):
    given = {"baseline": "base", "gates": [{"metric": "choice.acc", **(gate or {})}], **changes}
    return STAGE.execute(CompareConfig(scores=scores, output=str(tmp_path / "out"), **given))


def verdicts(tmp_path):
    return json.loads((tmp_path / "out" / "verdict.json").read_text())


def test_planted_regression_fails_and_the_artifact_says_so(tmp_path):
    before = hits(0.7)
    after = np.where(np.arange(200) % 6 == 0, 0.0, before)
    scores = write_scores(tmp_path / "scores", {"base": before, "new": after})
    with pytest.raises(RaymillError, match=r"regression: new against base, choice\.acc") as caught:
        compare(tmp_path, str(scores))
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    found = manifest.read(tmp_path / "out")
    assert found.metrics["verdict"] == "regressed"
    assert found.counts == {"gates": 1, "regressed": 1}
    (verdict,) = verdicts(tmp_path)
    assert verdict["verdict"] == "regressed"
    assert verdict["test"] == "McNemar"
    assert verdict["drop"] == pytest.approx(before.mean() - after.mean())
    assert (tmp_path / "out" / "report.html").is_file()


def test_regression_is_told_again_when_the_artifact_is_reused(tmp_path):
    scores = write_scores(tmp_path / "scores", {"base": hits(0.9), "new": hits(0.2)})
    for _ in range(2):
        with pytest.raises(RaymillError, match="regression"):
            compare(tmp_path, str(scores))


@pytest.mark.parametrize("seed", range(1, 9))
def test_noise_is_no_regression(tmp_path, seed):
    scores = write_scores(tmp_path / "scores", {"base": hits(0.6), "new": hits(0.6, seed=seed)})
    done, _ = compare(tmp_path, str(scores))
    assert done.metrics["verdict"] == "ok"


def test_drop_within_the_allowance_passes(tmp_path):
    before = np.ones(400)
    after = np.where(np.arange(400) < 12, 0.0, 1.0)  # 3 points worse, and surely so
    scores = write_scores(tmp_path / "scores", {"base": before, "new": after})
    with pytest.raises(RaymillError, match="regression"):
        compare(tmp_path, str(scores), {"max_drop": 0.02})
    done, _ = compare(tmp_path, str(scores), {"max_drop": 0.05})
    assert done.metrics["verdict"] == "ok"
    done, _ = compare(tmp_path, str(scores), {"max_drop": 5, "unit": "standard_errors"})
    assert done.metrics["verdict"] == "ok"


def test_lower_is_better_for_bits_per_byte(tmp_path):
    bits = np.random.default_rng(0).normal(200, 30, 100)
    models = {"base": bits, "worse": bits * 1.02, "better": bits * 0.98}
    scores = write_scores(tmp_path / "scores", models, metric="bits_per_byte")
    gate = {"gates": [{"metric": "choice.bits_per_byte"}]}
    with pytest.raises(RaymillError, match="worse against base") as caught:
        compare(tmp_path, str(scores), **gate)
    assert "better against" not in str(caught.value)
    worse, better = verdicts(tmp_path)
    assert worse["drop"] == pytest.approx(0.02 * bits.mean() / 100)
    assert better["drop"] == pytest.approx(-0.02 * bits.mean() / 100)
    assert worse["test"] == "paired bootstrap"


def test_clustered_samples_are_not_counted_as_independent(tmp_path):
    """Eight facts of 25 pairs each, five of them worse: by pairs beyond doubt, by facts no more than chance."""
    groups = np.repeat(np.arange(8), 25)
    before = np.isin(groups, [0, 1, 2, 3, 4]).astype(float)
    after = np.isin(groups, [5, 6, 7]).astype(float)
    plain = write_scores(tmp_path / "plain", {"base": before, "new": after})
    with pytest.raises(RaymillError, match="regression"):
        compare(tmp_path, str(plain))
    clustered = write_scores(tmp_path / "clustered", {"base": before, "new": after}, groups)
    done, _ = compare(tmp_path, str(clustered))
    assert done.metrics["verdict"] == "ok"
    assert verdicts(tmp_path)[0]["test"] == "paired bootstrap"


def test_scores_of_several_runs_are_compared(tmp_path):
    one = write_scores(tmp_path / "one", {"base": hits(0.5)})
    two = write_scores(tmp_path / "two", {"new": hits(0.9)})
    done, _ = compare(tmp_path, [str(one), str(two)])
    assert done.metrics["verdict"] == "ok"
    again = write_scores(tmp_path / "three", {"new": hits(0.9)})
    with pytest.raises(UserError, match="has scores in another artifact too"):
        compare(tmp_path, [str(one), str(two), str(again)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "bass"}, "bass: no such model in .* there are: base, new"),
        ({"candidates": ["old"]}, "old: no such model"),
        ({"gates": [{"metric": "choice.bits_per_byte"}]}, r"has no such score; there are: choice\.acc"),
        ({"gates": [{"metric": "choise.acc"}]}, r"has no such score; there are: choice\.acc"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, changes, message):
    scores = write_scores(tmp_path / "scores", {"base": hits(0.5), "new": hits(0.5)})
    with pytest.raises(UserError, match=message):
        compare(tmp_path, str(scores), **changes)


def test_wrong_artifacts_are_refused(tmp_path):
    scores = write_scores(tmp_path / "scores", {"base": hits(0.5), "new": hits(0.5)})
    write_manifest(scores, "data.build")
    with pytest.raises(UserError, match=r"written by data\.build, not by eval\.run"):
        compare(tmp_path, str(scores))
    (scores / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a finished artifact"):
        compare(tmp_path, str(scores))


def test_models_scored_on_different_samples_are_not_compared(tmp_path):
    scores = write_scores(tmp_path / "scores", {"base": hits(0.5), "new": hits(0.5, n=100)})
    with pytest.raises(UserError, match="different samples"):
        compare(tmp_path, str(scores))
