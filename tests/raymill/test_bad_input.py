"""Mistakes that users make, through the real command line: one line, the right exit code, nothing half done."""

import fcntl
import os
import re
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.training import fixtures
from training.model import ModelConfig

DOCUMENT = {"id": f"{7:032x}", "text": "words " * 50, "source": "s", "url": "u", "date": "", "language": "en"}


@pytest.fixture
def call(raymill_here):
    """`raymill ARGUMENTS` in an empty folder: (exit code, lines of standard error)."""

    def run(*arguments):
        done = raymill_here(*arguments)
        return done.returncode, done.stderr.splitlines()

    return run


def write(path, settings):
    with open(path, "w") as file:
        yaml.safe_dump(settings, file)
    return path


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def assert_complains(result, code, message, lines=1):
    """One line for people; before it only what the stage logged until then (`lines` None)."""
    found, stderr = result
    assert stderr, "nothing was said"
    complaints = [line for line in stderr if line.startswith("raymill: ")]
    assert len(complaints) == 1, stderr
    assert stderr[-1] == complaints[0], stderr
    assert lines is None or len(stderr) == lines, stderr
    assert re.search(message, complaints[0]), complaints[0]
    assert "Traceback" not in "".join(stderr)
    assert found == code, complaints[0]


def assert_nothing_left(output):
    """No artifact: no manifest, and no file that a reader could take for a result."""
    left = [path for path in output.rglob("*") if path.is_file()] if output.exists() else []
    assert [path.name for path in left if path.name not in ("run.json", "run.lock", "run.log")] == []


# --- configuration ----------------------------------------------------------------------------------------------------

CRAWL = {"output": "out", "seeds": ["http://127.0.0.1/"]}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("output: out\nseeds: [http://a/]\nmax_dept: 3\n", [], "max_dept is not a setting; did you mean max_depth"),
        ("output: out\nseeds: [http://a/]\nzzz: 3\n", [], "zzz is not a setting; here knows: .*allow"),
        ("output: out\nseeds: [http://a/]\nmax_depth: deep\n", [], "max_depth: .*integer.*got 'deep'"),
        ("output: out\nseeds: [http://a/]\nmax_depth: -1\n", [], "max_depth: .*greater than or equal to 0"),
        ("output: out\nseeds: http://a/\n", [], "seeds: .*list"),
        ("output: out\n", [], "seeds is missing; set it in the file or with --set seeds"),
        ("", [], "output is missing"),
        ("output: [\n", [], "c.yaml: not readable as YAML"),
        ("\x00\x01", [], "c.yaml: not readable as YAML"),
        ("just a sentence", [], "c.yaml: expected settings as 'key: value', found a str"),
        ("- a\n- b\n", [], "found a list"),
        ("output: out\nseeds: [http://a/]\n", ["max_depth"], "--set max_depth: expected key=value"),
        ("output: out\nseeds: [http://a/]\n", ["=3"], "--set =3: expected key=value"),
        ("output: out\nseeds: [http://a/]\n", ["max_dpeth=3"], "did you mean max_depth"),
        ("output: out\nseeds: [http://a/]\n", ["max_depth.a=3"], "max_depth"),
        ("output: out\nseeds: [http://a/]\n", ["seeds.7=x"], "7 is no item of a list of 1"),
        ("output: out\nseeds: [http://a/]\n", ["output.x=1"], "output holds the value 'out'"),
        ("output: out\nseeds: [http://a/]\nseeds: [http://a/\n", [], "not readable as YAML"),
        ("1: 2\noutput: out\nseeds: [http://a/]\n", [], "1"),
    ],
)
def test_a_wrong_setting_is_named(call, tmp_path, text, overrides, message):
    (tmp_path / "c.yaml").write_text(text)
    result = call("data", "crawl", "c.yaml", *(word for override in overrides for word in ("--set", override)))
    assert_complains(result, 2, message)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"], "an output folder was made"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "crawl", "none.yaml"], "none.yaml: no such configuration file"),
        (["data", "crawl", "."], r"\.: no such configuration file"),
        (["data", "crawl"], "(?i)data crawl: Missing argument 'config'"),
        (["data", "crawll", "x.yaml"], "No such command 'crawll'. Did you mean 'crawl'"),
        (["dat"], "No such command 'dat'. Did you mean 'data'"),
        (["run", "none.yaml"], "none.yaml: no such configuration file"),
        (["train", "status", "nowhere"], "nowhere"),
        (["run", "r.yaml", "--only", "bulid"], "bulid"),
        (["data", "crawl", "--set"], "--set"),
    ],
)
def test_a_wrong_command_is_named(call, tmp_path, arguments, message):
    recipe = {"name": "r", "output": "runs", "stages": {"build": {"use": "data.crawl", "seeds": ["http://a/"]}}}
    write("r.yaml", recipe)
    assert_complains(call(*arguments), 2, message)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"use": "data.biuld"}}, "stages.a.use: 'data.biuld' is no stage.*data.build"),
        ({"a": {"seeds": ["http://a/"]}}, "use"),
        ({"a": {"use": "data.crawl", "seedz": []}}, "seedz is not a setting; did you mean seeds?"),
        ({"a": {"use": "data.tokenize", "documents": "${b.output}"}}, "b"),
    ],
)
def test_a_wrong_recipe_is_told_before_anything_runs(call, tmp_path, stages, message):
    write("r.yaml", {"name": "r", "output": "runs", "stages": stages})
    assert_complains(call("run", "r.yaml"), 2, message)
    assert not (tmp_path / "runs").exists()


# --- the output folder ------------------------------------------------------------------------------------------------


def test_foreign_files_in_the_output_folder_stay(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("do not delete")
    assert_complains(call("data", "crawl", write("c.yaml", CRAWL)), 2, "out holds files that no run wrote")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_output_that_is_a_file(call, tmp_path):
    (tmp_path / "out").write_text("x")
    assert_complains(call("data", "crawl", write("c.yaml", CRAWL)), 2, "out is a file; name a folder")
    assert (tmp_path / "out").read_text() == "x"


def test_output_in_use_by_another_run(call, tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_complains(call("data", "crawl", write("c.yaml", CRAWL)), 2, "out is in use by another run")
    assert_nothing_left(tmp_path / "out")


def test_output_that_cannot_be_made(call, tmp_path):
    (tmp_path / "file").write_text("x")
    result = call("data", "crawl", write("c.yaml", {**CRAWL, "output": "file/below"}))
    assert_complains(result, 2, "file/below")


def test_output_far_away(call):
    result = call("data", "crawl", write("c.yaml", {**CRAWL, "output": "s3://bucket/x"}))
    assert_complains(result, 2, "a run directory must be a local or mounted folder")


# --- inputs -----------------------------------------------------------------------------------------------------------

BUILD = {"output": "out", "sources": [{"name": "web", "paths": ["input"]}]}
TUNE = {"output": "out", "checkpoint": "model", "heldout": "data/x.parquet", "conversations": "data/x.parquet"}
DPO = {"output": "out", "checkpoint": "model", "heldout": "data/x.parquet", "preferences": "data/x.parquet"}
MISSING = [
    ("data build", BUILD),
    ("data tokenize", {"output": "out", "documents": "input"}),
    ("data derive", {"output": "out", "documents": "input"}),
    ("train pretrain", {"output": "out", "tokens": "input"}),
    ("train sft", {**TUNE, "checkpoint": "input"}),
    ("train dpo", {**DPO, "checkpoint": "input"}),
    ("eval compare", {"output": "out", "scores": "input", "baseline": "a", "gates": []}),
    (
        "eval run",
        {"output": "out", "models": {"a": "input"}, "tasks": [{"type": "bits_per_byte", "tokens": "input"}]},
    ),
    ("serve quantize", {"output": "out", "checkpoint": "input", "documents": "input"}),
    ("serve up", {"output": "out", "checkpoint": "input"}),
]


@pytest.mark.parametrize(("command", "settings"), MISSING, ids=[command for command, _ in MISSING])
def test_an_input_that_is_not_there(call, tmp_path, command, settings):
    table(tmp_path / "data" / "x.parquet", [{"messages": []}])
    assert_complains(call(*command.split(), write("c.yaml", settings)), 2, "input|bits_per_byte|gates")
    assert_nothing_left(tmp_path / "out")


@pytest.fixture
def not_a_model(tmp_path):
    """Folders that a user may take for a checkpoint."""
    for name in ("empty", "adapter", "no_weights", "no_json", "no_type", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "README.md").write_text("x")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "no_weights" / "config.json").write_text('{"model_type": "llama"}')
    for name, text in (("no_json", "{"), ("no_type", "{}"), ("damaged", '{"model_type": "llama"}')):
        (tmp_path / name / "config.json").write_text(text)
        (tmp_path / name / "model.safetensors").write_bytes(b"no tensors")
    return tmp_path


STAGES_OF_CHECKPOINTS = {
    "train sft": TUNE,
    "train dpo": DPO,
    "serve quantize": {"output": "out", "checkpoint": "model", "documents": "data"},
    "serve up": {"output": "out", "checkpoint": "model"},
}


@pytest.mark.parametrize("command", STAGES_OF_CHECKPOINTS)
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("empty", "config.json is missing"),
        ("adapter", "it is a PEFT adapter: merge it"),
        ("no_weights", "holds no .*safetensors"),
        ("no_json", "not readable as JSON"),
        ("no_type", "names no model_type"),
    ],
)
def test_a_folder_that_is_no_checkpoint(call, not_a_model, command, folder, message):
    table(not_a_model / "data" / "x.parquet", [DOCUMENT])
    settings = {**STAGES_OF_CHECKPOINTS[command], "checkpoint": folder}
    result = call(*command.split(), write("c.yaml", settings))
    assert_complains(result, 2, f"{folder}.*{message}", lines=None)
    assert_nothing_left(not_a_model / "out")


def test_a_port_in_use_is_told_before_the_engine_starts(call, tmp_path):
    model = ModelConfig(hidden_size=64, layers=1, heads=2, intermediate_size=64, max_length=128)
    checkpoint = fixtures.write_checkpoint(tmp_path / "model", model)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = call("serve", "up", write("c.yaml", {"output": "out", "checkpoint": str(checkpoint), "port": port}))
    assert_complains(result, 2, f"{port}", lines=None)
    assert_nothing_left(tmp_path / "out")


# --- content ----------------------------------------------------------------------------------------------------------


def no_rows(folder):
    table(folder / "a.parquet", [DOCUMENT]).unlink()
    pq.write_table(pa.Table.from_pylist([DOCUMENT]).slice(0, 0), folder / "a.parquet")


def torn(folder):
    path = table(folder / "a.parquet", [DOCUMENT] * 50)
    os.truncate(path, path.stat().st_size // 2)


def not_parquet(folder):
    table(folder / "a.parquet", [DOCUMENT]).write_bytes(b"this is no Parquet file")


def not_warc(folder):
    folder.mkdir()
    (folder / "a.warc.gz").write_bytes(b"this is no gzip")


def empty_file(folder):
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"")


def unknown_kind(folder):
    folder.mkdir()
    (folder / "a.docx").write_bytes(b"PK")


@pytest.mark.slow
@pytest.mark.parametrize("content", [no_rows, torn, not_parquet, not_warc, empty_file, unknown_kind])
def test_a_build_without_a_single_document_is_a_failure(call, tmp_path, ray_session, content):
    content(tmp_path / "input")
    result = call("data", "build", write("c.yaml", BUILD))
    assert result[0] in (1, 2)
    assert_complains(result, result[0], "input|document", lines=None)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", [no_rows, torn, not_parquet])
def test_documents_that_cannot_be_tokenised_are_a_failure(call, tmp_path, ray_session, content):
    content(tmp_path / "input")
    result = call("data", "tokenize", write("c.yaml", {"output": "out", "documents": "input"}))
    assert_complains(result, result[0], "input|document", lines=None)
    assert result[0] in (1, 2)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_as_a_process_it_is_the_same(raymill, tmp_path):
    (tmp_path / "c.yaml").write_text("output: out\nseeds: [http://a/]\nmax_dept: 3\n")
    answer = raymill("data", "crawl", "c.yaml")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "raymill: c.yaml: max_dept is not a setting; did you mean max_depth?\n"
