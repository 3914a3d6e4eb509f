"""`data stats`: exact counts, samples that belong to their rule, no personal data, any Parquet with id and text."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import manifest
from core.errors import UserError
from data_engine import build
from data_engine.census import Census, draw
from data_engine.stats import STAGE, StatsConfig
from tests.data_engine.corpora import document

SENTENCE = "The parser reads each line of the file and it writes what is left to another place. "


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build in this process: long and short texts, copies, an address in one that stays and in one that goes."""
    import random

    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("stats")
    texts = [" ".join(f"{SENTENCE}{document(rng, 40)}" for _ in range(4)) for _ in range(30)]
    texts += [texts[0], texts[0].replace("parser", "reader", 1), texts[1]]
    texts += ["Too short to stay here. Write to jane.doe@real-company.com now."]
    texts[5] += " Write to john@real-company.com, or to jim@real-company.com. <script>alert(1)</script>"
    rows = [{"text": text, "url": f"https://example.org/{number}"} for number, text in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "texts.parquet")
    config = build.BuildConfig.model_validate(
        {
            "output": str(folder / "build"),
            "sources": [{"name": "a", "paths": [str(folder / "texts.parquet")]}],
            "language": {"min_score": 0.0},
            "policies": {name: {"enabled": False} for name in ("gopher_repetition", "c4", "fineweb", "toxicity")},
        }
    )
    build.STAGE.execute(config)
    return folder / "build"


def run(documents, output, **settings):
    return STAGE.execute(StatsConfig(documents=str(documents), output=str(output), **settings))[0]


def test_counts_are_those_of_the_build(built, tmp_path):
    done = run(built, tmp_path / "out")
    counts = manifest.read(built).counts
    assert done.counts["documents"] == counts["kept"]
    assert done.counts["rejected"] == counts["rejected"]
    assert done.counts["measured"] == counts["read"] == 34
    assert done.counts["personal_data"] == {"email": 2}
    assert done.counts["rejected"]["gopher_quality:short_doc"] == 1
    assert done.counts["rejected"]["dedup:exact"] == 2


def test_page_shows_each_rule_the_copies_and_no_personal_data(built, tmp_path):
    run(built, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Too short to stay here. Write to &lt;EMAIL&gt; now." in page
    assert "real-company.com" not in page
    assert 'id="gopher_quality%3Ashort_doc"' in page and 'href="#gopher_quality%3Ashort_doc"' in page
    assert "nearly, kept at" in page
    assert re.search(r"has the same text|^-.*parser", page, re.M), "no example of a copy"
    assert "<script>" not in page and not re.search(r'(?:src|href)="https?:', page), "the page is not self-contained"


def test_sample_takes_every_kth_document_and_counts_stay_exact(built, tmp_path):
    census = Census(str(built))
    assert [census.sample(most).num_rows for most in (1000, 34, 17, 10, 1)] == [34, 34, 17, 9, 1]
    everything = census.sample(1000)["id"].to_pylist()
    assert census.sample(10)["id"].to_pylist() == everything[::4]
    done = run(built, tmp_path / "out", plotted_documents=5)
    assert done.counts["measured"] == 34


def test_draws_do_not_depend_on_order():
    names = [f"{number:032x}" for number in range(50)]
    assert draw(names, 5, 0, "kept") == draw(names[::-1], 5, 0, "kept") != draw(names, 5, 1, "kept")


def test_plain_parquet_needs_id_and_text_only(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one é", None]}), tmp_path / "x.parquet")
    done = run(tmp_path / "x.parquet", tmp_path / "out")
    assert done.counts == {
        "documents": 2, "measured": 2, "rejected": {}, "languages": {}, "sources": {}, "personal_data": {},
    }  # fmt: skip
    assert "one é" in (tmp_path / "out" / "report.html").read_text()


def test_mistakes_are_one_line(tmp_path, built):
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path / "nowhere", tmp_path / "out")
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(built, broken)
    for file in (broken / "rejects").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(UserError, match="do not add up to that; the artifact is incomplete"):
        run(broken, tmp_path / "out")
