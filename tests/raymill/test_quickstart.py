"""The main job from end to end at a smaller size: real pages, real Ray, real fastText, a real vLLM engine."""

import json
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from peft import PeftConfig
from transformers import AutoConfig, AutoTokenizer

from core import manifest
from tests.browser import chromium
from tests.conftest import ROOT
from tests.raymill.small_recipe import RECIPE, STAGES, overrides

LOADS = re.compile(r"""<(?:script|img|iframe|link)[^>]+(?:src|href)=|url\(["']?(?:https?:)?//|@import""")
SECTIONS = {
    "crawl": ["Funnel", "Speed"],
    "build": ["Funnel of documents", "Languages of the documents kept", "Duplicate clusters"],
    "tokenize": ["Splits", "Tokens per word", "Bytes per token"],
    "derive": ["Instruction tasks"],
    **{stage: ["Loss", "Learning rate", "Speed"] for stage in ("pretrain", "sft", "dpo")},
    "eval": ["Scores", "Scores by model"],
    "compare": ["Verdicts", "Differences"],
    "quantize": ["Size, memory and quality"],
    "endpoint": ["Questions and answers", "Latency", "Latency of each answer"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run directories, what the command printed, standard output of a second run)."""
    output = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "raymill", "run", str(RECIPE), "--address", "local", *overrides(output)]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(2))
    assert first.returncode == 0, first.stderr[-3000:]
    assert second.returncode == 0, second.stderr[-3000:]
    return output, first.stdout, second.stdout


def read(output, stage):
    found = manifest.read(output / stage)
    assert found is not None, f"{stage} left no manifest"
    return found


@pytest.mark.slow
def test_every_stage_leaves_an_artifact_and_a_report(finished):
    output, printed, _ = finished
    for stage in STAGES:
        assert read(output, stage).status == "complete"
        page = (output / stage / "report.html").read_text()
        assert not LOADS.search(page), f"{stage}: the report needs a network"
        for title in [*SECTIONS[stage], "How this was made"]:
            assert f">{title}</h2>" in page
        assert f"\n{stage}  (" in printed
    index = (output / "index.html").read_text()
    assert [f'href="{stage}/report.html"' in index for stage in STAGES] == [True] * len(STAGES)


@pytest.mark.slow
def test_a_browser_opens_every_report_without_an_error_or_a_request(finished, tmp_path):
    output, _, _ = finished
    with chromium(tmp_path / "profile") as browser:
        for page in [output / "index.html", *(output / stage / "report.html" for stage in STAGES)]:
            for width in (1280, 400):
                seen = browser.open(page, width)
                assert (seen.requests, seen.errors, seen.overflow, seen.flat) == ([], [], 0, 0), page


MANIFEST = {
    *("stage", "status", "config", "inputs", "outputs"),
    *("counts", "metrics", "timings", "versions", "seed"),
}
DOCUMENT = {"id", "url", "text", "source", "date", "language", "language_score", "signals"}
TABLES = {
    "build/documents": DOCUMENT,
    "build/measured": DOCUMENT,
    "build/rejects": {"id", "url", "reason", "value", "threshold"},
    "build/duplicates": {"id", "kind", "cluster_id", "survivor_id", "survivor_artifact", "jaccard"},
    "tokenize": {"id", "offset", "tokens", "bytes", "source", "language", "split"},
    "derive/conversations": {"messages", "source"},
    "derive/preferences": {"prompt", "chosen", "rejected", "source"},
}
LOG = {
    *("step", "tokens", "loss", "lr", "grad_norm", "step_seconds", "data_seconds", "tokens_per_second"),
    *("mfu", "memory_gib", "skipped", "validation_loss"),
}


@pytest.mark.slow
def test_artifacts_hold_what_the_contract_promises(finished):
    output, _, _ = finished
    for stage in STAGES:
        assert set(json.loads((output / stage / "manifest.json").read_text())) >= MANIFEST
    for folder, columns in TABLES.items():
        files = sorted((output / folder).glob("*.parquet"))
        assert files, folder
        assert all(columns <= set(pq.read_schema(file).names) for file in files), folder
    for stage in ("pretrain", "sft", "dpo", "quantize"):
        checkpoint = output / stage / "checkpoint"
        assert AutoConfig.from_pretrained(checkpoint).model_type == "llama"
        assert AutoTokenizer.from_pretrained(checkpoint).chat_template
        assert list(checkpoint.glob("*.safetensors"))
    for stage in ("pretrain", "sft", "dpo"):
        rows = [json.loads(line) for line in (output / stage / "metrics.jsonl").read_text().splitlines()]
        assert rows and all(set(row) >= LOG for row in rows)
        assert list((output / stage / "state").glob("step-*"))
    for stage in ("sft", "dpo"):
        assert PeftConfig.from_pretrained(output / stage / "adapter").peft_type == "LORA"
    assert list((output / "crawl" / "warc").glob("*.warc.gz"))
    assert list((output / "tokenize" / "tokens").glob("*.bin"))
    assert {"task", "metric", "value", "standard_error", "n"} <= set(
        json.loads((output / "eval" / "scores.json").read_text())["scores"][0]
    )


@pytest.mark.slow
def test_documents_balance_and_the_planted_pages_become_what_the_key_says(finished):
    build = read(finished[0], "build")
    counts = build.counts
    assert counts["read"] == counts["kept"] + sum(counts["rejected"].values()) + counts["quarantined"]
    right, _, of = build.metrics["answer_key"].partition(" of ")
    assert right == of
    assert int(of) >= 60


@pytest.mark.slow
def test_training_learns_and_tuning_starts_from_it(finished):
    output, _, _ = finished
    pretrain, sft, dpo = (read(output, name).metrics for name in ("pretrain", "sft", "dpo"))
    assert pretrain["validation_loss"] < pretrain["unigram_entropy"]
    losses = [json.loads(line)["loss"] for line in (output / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert set(sft["exact_match"]) == set(sft["exact_match_base"]) == set(sft["exact_match_constant"])
    assert 0 < dpo["preference_accuracy_standard_error"] < 0.5


@pytest.mark.slow
def test_the_endpoint_answered_and_drafted(finished):
    output, printed, _ = finished
    answers = json.loads((output / "endpoint" / "answers.json").read_text())
    assert len(answers) == 3
    assert all(answer["completion_tokens"] > 0 for answer in answers)
    assert [answer["streamed"] for answer in answers].count(True) == 1
    endpoint = json.loads((output / "endpoint" / "endpoint.json").read_text())
    assert endpoint["quantization"] == "int8_w8a8"
    assert endpoint["speculative"]["method"] == "ngram"
    assert "speculative decoding (ngram)" in printed
    assert "perplexity" in printed


@pytest.mark.slow
def test_a_second_run_reuses_everything_and_says_so(finished):
    output, _, again = finished
    assert again.count("up to date, reused") == len(STAGES)
    assert (output / "pretrain" / "manifest.json").is_file()
