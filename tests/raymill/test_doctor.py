"""Checks of a machine: quiet where stages run, and a way to mend whatever they complain about."""

import shutil
from collections import namedtuple
from importlib import metadata

import pytest

from raymill import doctor

SUBJECTS = {
    *("packages", "vLLM", "number formats", "memory", "shared memory"),
    *("disk", "open files", "socket paths", "compiler", "sandbox"),
}


def found(subject):
    (finding,) = (finding for finding in doctor.examine() if finding.subject == subject)
    return finding


def test_where_the_tests_run_nothing_is_a_problem():
    findings = doctor.examine()
    assert {finding.subject for finding in findings} == SUBJECTS
    assert [finding for finding in findings if finding.state == "problem"] == []


def test_a_package_of_another_version_or_none_is_named(monkeypatch):
    version = metadata.version

    def older(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "2.59.0" if name == "ray" else version(name)

    monkeypatch.setattr(metadata, "version", older)
    finding = found("packages")
    assert (finding.state, finding.mend) == ("problem", "make setup")
    assert "ray 2.59.0, not ==2.60.0" in finding.found
    assert "peft is missing" in finding.found


def test_a_vllm_that_the_tables_of_formats_do_not_know_is_a_warning(monkeypatch):
    from serving import preflight

    monkeypatch.setattr(preflight, "VLLM", "0.99")
    finding = found("vLLM")
    assert finding.state == "warning"
    assert "what runs where is known of 0.99" in finding.found
    assert "preflight --ask" in finding.mend


def test_a_full_disk_and_little_shared_memory_are_told_apart(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 << 20, 62 << 20, 2 << 20))
    assert found("disk").state == "problem"
    assert found("shared memory").state == "warning"
    assert "--shm-size=" in found("shared memory").mend


def test_paths_too_long_for_sockets_end_the_command_with_1(raymill_here, monkeypatch):
    assert raymill_here("cluster", "doctor").returncode == 0
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 20)
    done = raymill_here("cluster", "doctor")
    assert done.returncode == 1
    assert "too long for Ray's sockets" in done.stdout


@pytest.mark.slow
def test_every_node_of_a_cluster_is_asked(ray_session):
    (findings,) = doctor.examine_cluster().values()
    assert {finding.subject for finding in findings} == SUBJECTS
