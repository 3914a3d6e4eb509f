"""The stages from end to end in this process, and what a user's mistake does: one line, and no artifact."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config

from core import checkpoint, manifest
from core.errors import RaymillError, UserError
from core.token_set import INDEX, TOKENIZER
from data_engine import byte_level_bpe
from tests.training import fixtures
from training import dpo, metrics, pretrain, sft
from training.export import probe_logits
from training.objectives import NextToken
from training.rope import RopeScaling
from training.tuning import check

SMALL = {"batch_size": 8, "micro_batch": 4, "workers": 0, "threads": 1, "precision": "fp32"}


def pretrain_config(output, tokens, **changes):
    settings = {"model": fixtures.TINY, "steps": 12, "sequence_length": 64, "validation_tokens": 1024, **SMALL}
    settings["optimizer"] = {"learning_rate": 1e-2}
    return pretrain.PretrainConfig(output=str(output), tokens=str(tokens), **settings | changes)


def sft_config(output, base, folder, **changes):
    settings = {"epochs": 1, "max_length": 64, "exact_match_prompts": 8, "max_new_tokens": 6, **SMALL}
    return sft.SftConfig(
        output=str(output),
        checkpoint=str(base),
        conversations=str(folder / "train.parquet"),
        heldout=str(folder / "heldout.parquet"),
        **settings | changes,
    )


def dpo_config(output, base, folder, **changes):
    settings = {"epochs": 1, "max_length": 64, **SMALL}
    settings["optimizer"] = {"learning_rate": 5e-3, "weight_decay": 0.0}
    return dpo.DpoConfig(
        output=str(output),
        checkpoint=str(base),
        preferences=str(folder / "train.parquet"),
        heldout=str(folder / "heldout.parquet"),
        **settings | changes,
    )


def check_artifact(directory, found):
    """What the contract promises of every training stage."""
    assert manifest.read(directory) == found
    assert {"metrics.jsonl", "checkpoint/config.json", "checkpoint/model.safetensors"} <= {
        o.path for o in found.outputs
    }
    assert "<svg" in (directory / "report.html").read_text() or "data:image" in (directory / "report.html").read_text()
    leftovers = {entry.name for entry in directory.iterdir() if entry.name.startswith(".")}
    assert leftovers <= {".trainer.lock", ".result.json"}
    rows = metrics.read(directory)
    assert [row["step"] for row in rows] == list(range(1, found.counts["steps"] + 1))
    assert found.metrics["validation_loss"] == rows[-1]["validation_loss"]


@pytest.mark.slow
def test_pretraining_ends_in_a_checkpoint_that_has_learned(tokens, tmp_path):
    config = pretrain_config(tmp_path / "run", tokens, validate_every=5)
    found, reused = pretrain.STAGE.execute(config)
    assert not reused
    check_artifact(tmp_path / "run", found)
    assert found.metrics["validation_loss"] < math.log(fixtures.VOCABULARY) - 0.3
    validated = [row["step"] for row in metrics.read(tmp_path / "run") if row["validation_loss"] is not None]
    assert validated == [5, 10, 12]
    # The loss in the log is the loss of what was saved, measured here on the plain model, document by document.
    model = checkpoint.load_model(tmp_path / "run" / "checkpoint")
    documents = pretrain.PackedDocuments(pretrain.TokenSet(tokens), "validation", 64, config.seed)
    total, count = 0.0, 0
    for batch in documents.prefix(1024, 4):
        for row in range(len(batch.tokens)):
            for number in set(batch.segments[row].tolist()):
                here = batch.segments[row] == number
                with torch.no_grad():
                    logits = model(input_ids=batch.tokens[row][here][None], use_cache=False).logits[0]
                labels = batch.labels[row][here]
                total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                count += int((labels >= 0).sum())
    assert count == 1024
    assert found.metrics["validation_loss"] == pytest.approx(total / count, rel=1e-5)
    bits = found.metrics["validation_loss"] / math.log(2) / documents.bytes_per_token()
    assert found.metrics["validation_bits_per_byte"] == pytest.approx(bits)
    assert pretrain.STAGE.execute(config)[1], "the same work again is reused"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_fine_tuning_learns_the_conversations(base, conversations, tmp_path, method):
    config = sft_config(
        tmp_path / "run", base, conversations, method=method, epochs=2, optimizer={"learning_rate": 5e-3}
    )
    found, _ = sft.STAGE.execute(config)
    check_artifact(tmp_path / "run", found)
    rows = metrics.read(tmp_path / "run")
    assert rows[-1]["validation_loss"] < rows[0]["loss"] - 0.2
    assert found.counts["examples"] == {"train": 64, "heldout": 16}
    assert set(found.metrics["exact_match"]) == {"all", "first", "last"}
    adapter = tmp_path / "run" / "adapter"
    assert adapter.is_dir() == (method == "lora")
    if method == "lora":
        merged = checkpoint.load_model(tmp_path / "run" / "checkpoint")
        wrapped = PeftModel.from_pretrained(checkpoint.load_model(base), adapter).eval()
        torch.testing.assert_close(probe_logits(wrapped), probe_logits(merged), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_an_adapter_learns_on_a_4_bit_base_and_is_merged_into_the_full_one(base, conversations, tmp_path):
    """QLoRA with DoRA and noise; training ends early, and what is written is the best step on the base as it was."""
    config = sft_config(
        tmp_path / "run",
        base,
        conversations,
        lora={"dora": True, "base": "nf4"},
        neftune_alpha=1.0,
        optimizer={"learning_rate": 2e-2},
        epochs=6,
        early_stopping={"every": 4, "patience": 1},
    )
    found, _ = sft.STAGE.execute(config)
    rows = metrics.read(tmp_path / "run")
    measured = {row["step"]: row["validation_loss"] for row in rows if row["validation_loss"] is not None}
    assert found.metrics["stopped_early"]
    assert found.counts["steps"] < 48
    assert found.metrics["exported_step"] == min(measured, key=measured.get) == found.counts["steps"] - 4
    assert found.metrics["validation_loss"] == min(measured.values()) < rows[0]["loss"] - 0.2
    merged = checkpoint.load_model(tmp_path / "run" / "checkpoint")
    wrapped = PeftModel.from_pretrained(checkpoint.load_model(base), tmp_path / "run" / "adapter").eval()
    torch.testing.assert_close(probe_logits(wrapped), probe_logits(merged), rtol=0, atol=2e-5)
    assert "quantization_config" not in json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())


@pytest.mark.slow
def test_labelled_answers_are_learned_without_pairs(base, preferences, tmp_path):
    """KTO, from pairs taken apart; at the reference every answer's loss is a half."""
    config = dpo_config(tmp_path / "run", base, preferences, epochs=2, preference={"loss": "kto", "beta": 0.3})
    found, _ = dpo.STAGE.execute(config)
    check_artifact(tmp_path / "run", found)
    rows = metrics.read(tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(0.5, rel=1e-6)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["validation_loss"] < 0.49
    assert found.metrics["ranked_right"] > 0.5
    assert found.metrics["desirable_reward"] > found.metrics["undesirable_reward"]
    assert found.counts["examples"] == {"train": 96, "heldout": 32}
    assert found.counts["desirable_examples"] == {"train": 48, "heldout": 16}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"reference": "adapter_off"}, {"method": "full"}], ids=str)
def test_preferences_are_learned_from_ln_2_on(base, preferences, tmp_path, changes):
    found, _ = dpo.STAGE.execute(dpo_config(tmp_path / "run", base, preferences, epochs=3, **changes))
    check_artifact(tmp_path / "run", found)
    rows = metrics.read(tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-5)
    last = rows[-len(rows) // 3 :]  # the pairs of the last epoch, seen before
    assert sum(row["loss"] for row in last) / len(last) < math.log(2)
    assert sum(row["margin"] for row in last) > 0
    assert found.counts["examples"] == {"train": 48, "heldout": 16}


@pytest.mark.slow
def test_losses_that_are_not_finite_at_the_end_are_said_and_lose_no_run(tokens, tmp_path, monkeypatch):
    """The last step is skipped, which max_skipped allows; the held-out loss is no number either."""
    plain = NextToken.__call__
    calls = []

    def spoiled(self, model, batch, precision):
        calls.append(batch)
        found = plain(self, model, batch, precision)
        return replace(found, loss=found.loss * math.nan) if len(calls) > 2 else found

    monkeypatch.setattr(NextToken, "__call__", spoiled)
    found, _ = pretrain.STAGE.execute(pretrain_config(tmp_path / "run", tokens, steps=2))
    assert found.counts["skipped_steps"] == 1
    assert found.metrics["training_loss"] is found.metrics["validation_loss"] is None
    assert "training loss of the last step not finite" in found.metrics["headline"]
    assert any(line.startswith("validation loss not finite nats") for line in found.metrics["headline"])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_figures_are_those_of_the_exported_weights_also_after_a_resume(base, preferences, tmp_path, loss):
    """The last steps make it worse; then the run is killed after its last step, before its manifest."""
    changes = {"export": "best", "evaluate_every": 1, "steps": 4, "preference": {"loss": loss}}
    changes |= {"method": "full", "optimizer": {"learning_rate": 0.03}, "schedule": {"warmup": 0, "decay": 0}}
    config = dpo_config(tmp_path / "run", base, preferences, **changes)
    found, _ = dpo.STAGE.execute(config)
    rows = {row["step"]: row for row in metrics.read(tmp_path / "run")}
    best = min(rows, key=lambda step: rows[step]["validation_loss"])
    assert found.metrics["exported_step"] == best < 4
    for ours, logged in (("validation_loss", "validation_loss"), ("reward_accuracy", "validation_reward_accuracy")):
        assert found.metrics[ours] == pytest.approx(rows[best][logged], rel=1e-6)
    assert rows[best]["validation_loss"] != rows[4]["validation_loss"]
    (tmp_path / "run" / manifest.NAME).unlink()
    assert dpo.STAGE.execute(config)[0].metrics == found.metrics


@pytest.mark.slow
def test_both_references_train_the_same_adapter(base, preferences, conversations, tmp_path):
    logs, replay = [], {"conversations": str(conversations / "train.parquet"), "per_pair": 2}
    for reference in ("precomputed", "adapter_off"):
        config = dpo_config(tmp_path / reference, base, preferences, reference=reference, replay=replay)
        dpo.STAGE.execute(config)
        logs.append([row["loss"] for row in metrics.read(tmp_path / reference)])
    # Summed in another order: once per set, once per step.
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


@pytest.mark.slow
def test_what_is_replayed_is_not_forgotten(base, conversations, preferences, tmp_path):
    """Two answers to questions of another kind are told apart either way; the old answers stay with replay only."""
    sft.STAGE.execute(sft_config(tmp_path / "sft", base, conversations, epochs=4, optimizer={"learning_rate": 5e-3}))
    start, losses = tmp_path / "sft" / "checkpoint", {}
    ways = {"without": {}, "with": {"replay": {"conversations": str(conversations / "train.parquet"), "per_pair": 2}}}
    for way, changes in ways.items():
        changes |= {"epochs": 3}
        found, _ = dpo.STAGE.execute(dpo_config(tmp_path / way, start, preferences, **changes))
        after = sft_config(tmp_path / f"{way}, measured", tmp_path / way / "checkpoint", conversations, steps=1)
        losses[way] = sft.STAGE.execute(after)[0].metrics["validation_loss"]
    assert losses["with"] < losses["without"] - 0.1
    assert found.counts["examples"]["replay"] == 64
    first = metrics.read(tmp_path / "with")[0]
    assert first["loss"] == pytest.approx(math.log(2) + first["replay_loss"], rel=1e-5)


@pytest.mark.slow
def test_copies_of_a_held_out_pair_do_not_make_the_accuracy_surer(base, preferences, tmp_path):
    """Pairs about one document vary together."""
    rows = pq.read_table(preferences / "heldout.parquet").to_pylist()
    found = {}
    for copies in (1, 3):
        folder = tmp_path / f"{copies}"
        folder.mkdir()
        table = pa.Table.from_pylist(
            [row | {"document_id": f"{n}"} for n, row in enumerate(rows) for _ in range(copies)]
        )
        pq.write_table(table, folder / "heldout.parquet")
        shutil.copy(preferences / "train.parquet", folder)
        found[copies] = dpo.STAGE.execute(dpo_config(folder / "run", base, folder, steps=1))[0].metrics
    assert 0 < found[1]["preference_accuracy_before"] < 1
    for name in ("preference_accuracy_before", "preference_accuracy_before_standard_error"):
        assert found[3][name] == pytest.approx(found[1][name])


@pytest.mark.slow
def test_a_tokenizer_without_padding_is_fine_tuned_and_aligned(base, conversations, preferences, tmp_path):
    """As most published ones are."""
    start = shutil.copytree(base, tmp_path / "start")
    tokenizer = checkpoint.load_tokenizer(start)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(start)
    assert checkpoint.load_tokenizer(start).pad_token_id is None
    sft.STAGE.execute(sft_config(tmp_path / "sft", start, conversations, steps=1))
    dpo.STAGE.execute(dpo_config(tmp_path / "dpo", start, preferences, steps=1))


@pytest.mark.slow
def test_cut_and_skipped_conversations_are_in_the_manifest(base, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = [fixtures.conversation("a", "b")] * 3 + [fixtures.conversation("a", "x " * 90)]
    rows += [fixtures.conversation("w " * 90, "x")] * 2
    for name in ("train", "heldout"):
        pq.write_table(pa.table({"messages": rows}), folder / f"{name}.parquet")
    counts = {}
    for way in ("skip", "truncate", "split"):
        config = sft_config(tmp_path / way, base, folder, too_long=way, steps=1, exact_match_prompts=2)
        counts[way] = sft.STAGE.execute(config)[0].counts
    assert counts["skip"]["skipped_examples"]["train"] == {"too_long": 3}
    assert counts["skip"]["truncated_examples"] == {"train": 0, "heldout": 0}
    assert counts["truncate"]["skipped_examples"]["train"] == {"nothing_to_learn": 2}
    assert counts["truncate"]["truncated_examples"] == {"train": 1, "heldout": 1}
    assert counts["split"]["skipped_examples"]["train"] == {}
    assert counts["split"]["split_examples"] == {"train": 3, "heldout": 3}


# --- mistakes ---------------------------------------------------------------------------------------------------------


def refused(stage, config, complaint, kind=UserError):
    """One line, of the right kind, and nothing that looks like an artifact."""
    with pytest.raises(kind, match=complaint) as caught:
        stage.execute(config)
    assert "\n" not in str(caught.value)
    directory = Path(config.output)
    assert not (directory / manifest.NAME).exists()
    assert not (directory / "checkpoint").exists()
    assert not (directory / "adapter").exists()


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_what_is_no_checkpoint_is_refused(base, conversations, preferences, tmp_path, run):
    def broken(name, change):
        folder = shutil.copytree(base, tmp_path / name)
        change(folder)
        return folder

    cases = {
        "config.json is missing": broken("a", lambda f: (f / "config.json").unlink()),
        r"holds no \*\.safetensors": broken("b", lambda f: (f / "model.safetensors").unlink()),
        "not readable as JSON": broken("c", lambda f: (f / "config.json").write_text("{")),
        "holds no tokenizer": broken(
            "d", lambda f: [path.unlink() for path in f.glob("tokenizer*")] and shutil.rmtree(f / "tokenizer", True)
        ),
    }
    for complaint, path in cases.items():
        refused(sft.STAGE, sft_config(run, path, conversations), complaint)
        refused(dpo.STAGE, dpo_config(run, path, preferences), complaint)
    cut = broken("e", lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]))
    refused(sft.STAGE, sft_config(run, cut, conversations), "deserializing header|does not load", RaymillError)
    refused(sft.STAGE, sft_config(run, tmp_path / "nowhere", conversations), "nowhere")


def test_a_tokenizer_larger_than_the_model_is_refused(base, conversations, tmp_path, run):
    other = shutil.copytree(base, tmp_path / "other")
    tokenizer = checkpoint.load_tokenizer(other)
    tokenizer.add_tokens([f"<extra {n}>" for n in range(200)])
    tokenizer.save_pretrained(other)
    refused(sft.STAGE, sft_config(run, other, conversations), "belong to different checkpoints")


def test_examples_longer_than_the_model_are_refused(base, conversations, run):
    refused(sft.STAGE, sft_config(run, base, conversations, max_length=129), "longer than the model's context of 128")


@pytest.mark.parametrize("which", ["train", "heldout"])
def test_tables_that_are_empty_or_of_another_kind_are_refused(
    base, conversations, preferences, tokens, tmp_path, run, which
):
    folder = shutil.copytree(conversations, tmp_path / "rows")
    empty = pq.read_schema(folder / f"{which}.parquet").empty_table()
    pq.write_table(empty, folder / f"{which}.parquet")
    refused(sft.STAGE, sft_config(run, base, folder), "holds no rows")
    refused(
        sft.STAGE,
        sft_config(run, base, preferences),
        r"its columns \(prompt, chosen, rejected, source\) are none of: messages",
    )
    refused(
        dpo.STAGE, dpo_config(run, base, conversations), r"its columns \(messages, source, task\) are none of: prompt"
    )
    replay = {"conversations": str(preferences / "train.parquet")}
    refused(dpo.STAGE, dpo_config(run, base, preferences, replay=replay), "are none of: messages")
    (folder / f"{which}.parquet").write_text("no Parquet at all")
    refused(sft.STAGE, sft_config(run, base, folder), "not readable as Parquet")


def test_tokens_and_tokenizer_of_different_runs_are_refused(tokens, tmp_path, run):
    other = shutil.copytree(tokens, tmp_path / "smaller")
    shutil.rmtree(other / TOKENIZER)
    byte_level_bpe.save(byte_level_bpe.train(fixtures.documents(), 300), other / TOKENIZER)
    refused(pretrain.STAGE, pretrain_config(run, other), r"its tokenizer knows 300; tokens and tokenizer belong to")
    other = shutil.copytree(tokens, tmp_path / "ends otherwise")
    tokenizer = checkpoint.load_tokenizer(other / TOKENIZER)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(other / TOKENIZER)
    refused(pretrain.STAGE, pretrain_config(run, other), "the tokenizer's end token is")


def test_what_is_no_token_artifact_is_refused(base, tokens, tmp_path, run):
    refused(pretrain.STAGE, pretrain_config(run, base), "not a token artifact")
    other = shutil.copytree(tokens, tmp_path / "other")
    table = pq.read_table(other / INDEX)
    validation = table.column("split").to_numpy(zero_copy_only=False) == "validation"
    pq.write_table(table.filter(pa.array(~validation)), other / INDEX)
    refused(pretrain.STAGE, pretrain_config(run, other), "holds no validation documents")
    pq.write_table(table, other / INDEX)
    next((other / "tokens").iterdir()).unlink()
    refused(pretrain.STAGE, pretrain_config(run, other), "missing, though index.parquet names it")


def test_sequences_longer_than_the_model_are_refused(tokens, run):
    refused(pretrain.STAGE, pretrain_config(run, tokens, sequence_length=129), "sequence_length: 129 is longer")


def test_the_context_is_that_of_the_model_however_its_configuration_spells_it(base, conversations, tmp_path):
    """Dynamic scaling keeps the number it was trained with; GPT-2 calls it n_positions."""
    stretched, gpt2 = (shutil.copytree(base, tmp_path / name) for name in ("stretched", "gpt2"))
    shape = checkpoint.load_config(base)
    RopeScaling(type="dynamic", factor=2).apply(shape, "here")
    shape.save_pretrained(stretched)
    GPT2Config(vocab_size=fixtures.VOCABULARY, n_positions=64).save_pretrained(gpt2)
    check(sft_config(tmp_path / "run", stretched, conversations, max_length=256))
    for start, longest in ((stretched, 256), (gpt2, 64)):
        with pytest.raises(UserError, match=f"longer than the model's context of {longest}"):
            check(sft_config(tmp_path / "run", start, conversations, max_length=longest + 1))


@pytest.mark.slow
def test_a_run_that_diverges_fails_in_one_line_and_says_what_to_do(tokens, run):
    config = pretrain_config(run, tokens, optimizer={"learning_rate": 1e38}, max_skipped=1)
    refused(pretrain.STAGE, config, "lower optimizer.learning_rate", RaymillError)
    assert json.loads((run / ".error.json").read_text())["exit_code"] == 1
