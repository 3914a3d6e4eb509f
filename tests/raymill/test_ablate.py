"""Ablations of mixtures: real proxies side by side, reused, ranked by what was measured; no silent extrapolation."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from core import manifest
from core.errors import UserError
from core.token_set import INDEX
from raymill import ablate
from raymill.ablate import STAGE, AblateConfig
from tests.training import fixtures

PROXY = {
    "model": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "max_length": 64},
    "steps": 20, "batch_size": 8, "micro_batch": 8, "sequence_length": 64, "precision": "fp32",
    "validation_tokens": 1024, "optimizer": {"learning_rate": 0.01},
}  # fmt: skip
MIXTURES = {
    "docs only": {"docs": 1},
    "mostly docs": {"docs": 3, "noise": 1},
    "half": {"docs": 1, "noise": 1},
    "noise only": {"noise": 1},
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Documentation, of which a part has its tokens replaced by random ones: from that nothing can be learned."""
    directory = fixtures.write_tokens(tmp_path_factory.mktemp("tokens"))
    table = pq.read_table(directory / INDEX)
    rng = np.random.default_rng(0)
    names = ["docs" if number % 2 else "noise" for number in range(table.num_rows)]
    for shard in ("0.bin", "1.bin"):
        ids = np.fromfile(directory / "tokens" / shard, "<u2")
        for row, name in zip(table.to_pylist(), names, strict=True):
            if row["shard"] == shard and name == "noise":
                inside = ids[row["offset"] : row["offset"] + row["tokens"] - 1]
                inside[:] = rng.integers(4, fixtures.VOCABULARY, len(inside))
        ids.tofile(directory / "tokens" / shard)
    column = table.schema.get_field_index("source")
    pq.write_table(table.set_column(column, table.schema.field(column), [names]), directory / INDEX)
    return directory


def config(tokens, output, **settings):
    settings = {"mixtures": MIXTURES, "proxy": PROXY, "max_epochs": None, **settings}
    return AblateConfig.model_validate({"tokens": str(tokens), "output": str(output), **settings})


@pytest.mark.slow
def test_mixtures_are_ranked_predicted_and_reused(tokens, tmp_path, ray_session):
    settings = {"target": {"docs": 1}, "predict": {"two thirds": {"docs": 2, "noise": 1}}}
    done, _ = STAGE.execute(config(tokens, tmp_path / "first", **settings))
    ranking = done.metrics["ranking"]
    assert [row["target"] for row in ranking] == sorted(row["target"] for row in ranking)
    assert ranking[-1]["mixture"] == "noise only", "a model that saw no prose knows it least"
    assert all(row["target"] == pytest.approx(row["by_source"]["docs"]) for row in ranking)
    proxies = sorted((tmp_path / "first-proxies").iterdir())
    assert len(proxies) == 4
    assert all(manifest.require(path, "train.pretrain") for path in proxies)
    found = {path: manifest.read(path).metrics["validation_by_source"]["docs"]["bits_per_byte"] for path in proxies}
    assert sorted(found.values()) == [row["target"] for row in ranking]
    assert done.metrics["fit"]["leave_one_out_error"] > 0
    best, asked = done.metrics["predictions"]
    assert (best["name"], best["extrapolated"]) == ("best by the law", False)
    assert ranking[0]["target"] - 0.5 < asked["target"] < ranking[-1]["target"]
    assert asked["shares"] == {"docs": 0.6667, "noise": 0.3333}
    assert "Left out and predicted" in (tmp_path / "first" / "report.html").read_text()

    more = {**MIXTURES, "a quarter": {"docs": 1, "noise": 3}}
    again, _ = STAGE.execute(
        config(tokens, tmp_path / "second", mixtures=more, proxies=str(tmp_path / "first-proxies"), **settings)
    )
    assert again.counts["reused"] == 4
    assert {row["mixture"]: row["target"] for row in again.metrics["ranking"]}["half"] == next(
        row["target"] for row in ranking if row["mixture"] == "half"
    )


def test_a_proxy_is_a_pretraining_and_reused_when_it_is_up_to_date(tokens, tmp_path):
    proxy = ablate._proxies(config(tokens, tmp_path / "out", proxy={**PROXY, "steps": 2}))["half"]
    task = {"name": "half", "config": proxy.model_dump(mode="json")}
    first, second = ablate.train_proxy(task), ablate.train_proxy(task)
    assert (first["reused"], second["reused"]) == (False, True)
    assert first["by_source"] == second["by_source"]
    assert set(first["by_source"]) == {"docs", "noise"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixtures": {"a": {"docs": 1}, "b": {"wiki": 1}}}, "'wiki' is no source of these tokens; there are: docs, n"),
        ({"target": {"wiki": 1}}, "target: 'wiki' is no source"),
        ({"target": {"docs": 0}}, "every weight is 0"),
        ({"proxy": {**PROXY, "stesp": 1}}, "proxy: stesp is not a setting; did you mean steps"),
        ({"predict": {"x": {"wiki": 1}}}, r"predict\.x: .*'wiki' is no source"),
        (
            {"mixtures": {"a": {"docs": 3, "noise": 1}, "b": {"docs": 1, "noise": 1}, "c": {"docs": 2, "noise": 1}},
             "predict": {"x": {"noise": 1}}},
            r"predict\.x: is not between the tried mixtures \(0\.71 away in shares\)",
        ),
        ({"mixtures": {"a": {"docs": 1}, "b": {"noise": 1}}, "predict": {"x": {"docs": 1}}}, "3 mixtures, there are 2"),
        ({"max_epochs": 0.1}, r"raise mixture\.max_epochs"),
    ],
)  # fmt: skip
def test_mistakes_are_said_before_any_proxy_runs(tokens, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        STAGE.execute(config(tokens, tmp_path / "out", **settings))
    assert not (tmp_path / "out-proxies").exists()


def test_what_the_ablation_sets_itself_is_refused(tokens, tmp_path):
    with pytest.raises(ValueError, match=r"proxy\.workers is set by the ablation itself"):
        config(tokens, tmp_path / "out", proxy={"workers": 2})
