"""Progress in a log and on a terminal: few lines, the last one whatever happens, and nothing odd in the numbers."""

import io
import logging

import pytest

from core import progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())  # no terminal
    return clock


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return logging.getLogger("test.progress")


def test_a_log_gets_a_line_after_three_seconds_and_then_every_ten(clock, log, caplog):
    with progress.Progress(log, "read", total=1000, unit="pages") as shown:
        for _ in range(60):
            clock.now += 1
            shown.advance(5, loss=0.123456)
        assert [message.split()[1] for message in caplog.messages] == ["15", "65", "115", "165", "215", "265"]
        assert caplog.messages[0] == "read: 15 of 1,000 pages, loss 0.1235"
    assert caplog.messages[-1] == "read: 300 of 1,000 pages, loss 0.1235, 60.0 s"


def test_ten_thousand_quick_steps_are_one_line(clock, log, caplog):
    with progress.Progress(log, "read") as shown:
        for _ in range(10_000):
            shown.advance()
    assert caplog.messages == ["read: 10,000, 0.0 s"]


def test_work_that_failed_does_not_report_an_end(clock, log, caplog):
    with pytest.raises(ValueError, match="broken"), progress.Progress(log, "read"):
        raise ValueError("broken")
    assert caplog.messages == []


def test_facts_replace_those_of_the_same_name_only(clock, log, caplog):
    with progress.Progress(log, "train") as shown:
        shown.advance(tokens_per_second=1234567, loss=2.0)
        shown.update(7, loss=1.5, note="warm")
    assert caplog.messages == ["train: 7, tokens per second 1,234,567, loss 1.5, note warm, 0.0 s"]


def test_a_terminal_gets_a_bar_that_ends_even_after_a_failure(monkeypatch, log):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown = progress.Progress(log, "read", total=10)
    with pytest.raises(ValueError, match="broken"), shown:
        shown.advance(3, loss=1.0)
        raise ValueError("broken")
    assert shown._bar.finished is False
    assert not shown._bar.live.is_started, "a bar that goes on would write over the next prompt"
    assert "read" in terminal.getvalue()
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h"), "the cursor stays hidden"
