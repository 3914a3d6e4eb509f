import json
import os
import stat

import pytest

from serving.audit import AuditLog
from serving.visit import Visit
from tests.serving.doors import BEARER, CHAT, KEY, Parrot, ask, hanging_stream, listening, wait_for


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def visit():
    return Visit("/v1/completions", "POST", "127.0.0.1", status=200)


def test_each_request_is_one_line_and_no_line_holds_a_prompt_a_key_or_an_answer(tmp_path):
    path = tmp_path / "logs" / "audit.jsonl"
    with listening({"parrot": Parrot()}, audit_log=str(path)) as (_, client):
        ask(client, "private words", max_tokens=5)
        ask(client, "private words", stream=True)
        ask(client, "x", model="gpt-4")
        ask(client, headers={"Authorization": "Bearer wrong-key"})
        client.get("/health")
        with hanging_stream(client):
            pass
        wait_for(lambda: len(lines_of(path)) == 5)
    whole, stream, unknown, stranger, left = lines_of(path)
    for line in (whole, stream):
        assert (line["key"], line["model"], line["path"], line["status"]) == ("alice", "parrot", "/v1/completions", 200)
        assert (line["prompt_tokens"], line["completion_tokens"], line["client"]) == (7, 2, "127.0.0.1")
        assert line["seconds"] > 0 and line["time"].endswith("+00:00")
    assert (unknown["status"], unknown["error"], unknown["model"]) == (404, "model_not_found", None)
    assert (stranger["status"], stranger["key"], stranger["error"]) == (401, None, "invalid_api_key")
    assert left["client_left"] is True and left["completion_tokens"] >= 1
    assert all(word not in path.read_text() for word in ("private", KEY, "wrong-key"))


def test_prompts_are_written_only_when_asked_for(tmp_path):
    path = tmp_path / "audit.jsonl"
    with listening({"parrot": Parrot()}, audit_log=str(path), audit_prompts=True) as (_, client):
        messages = [{"role": "user", "content": "write this"}]
        client.post(CHAT, json={"model": "parrot", "messages": messages}, headers=BEARER)
        wait_for(lambda: lines_of(path))
    assert lines_of(path)[0]["prompt"] == {"messages": messages}


def test_its_owner_alone_reads_it(tmp_path, visit):
    AuditLog(tmp_path / "audit").write(visit)
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o600


def test_its_owner_alone_reads_it_after_logrotate_too(tmp_path, visit):
    before = os.umask(0o022)
    try:
        log = AuditLog(tmp_path / "audit")
        log.write(visit)
        (tmp_path / "audit").rename(tmp_path / "audit.1")
        log.write(visit)
    finally:
        os.umask(before)
    for name in ("audit", "audit.1"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert len(lines_of(tmp_path / name)) == 1


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path, visit):
    log = AuditLog(tmp_path / "audit")
    log.write(visit)
    (tmp_path / "audit").rename(tmp_path / "audit.1")
    log.write(visit)
    assert len(lines_of(tmp_path / "audit")) == len(lines_of(tmp_path / "audit.1")) == 1


def test_a_line_is_one_line_whatever_was_asked_for(tmp_path):
    AuditLog(tmp_path / "audit").write(Visit("/a\nb\u2028" + "x" * 5000, "GET", ""))
    (line,) = (tmp_path / "audit").read_text().rstrip("\n").split("\n")
    assert json.loads(line)["path"].startswith("/a\nb")
    assert len(line) < 600


def test_a_disk_that_is_full_stops_no_request(tmp_path, visit, caplog):
    log = AuditLog("/dev/full")
    log.write(visit)
    assert "the audit log cannot be written" in caplog.text
