"""Commands that are killed with -9: a `raymill` process, and every process that came from it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil

from tests.conftest import ROOT

GONE_SECONDS = 150.0
"""Strays of a killed driver end by themselves within this time, also on a machine that has other work. Ray's agents
first try for 60 s to tell the dead head that their raylet is dead (ray/_private/utils.py, publish_error_to_driver)."""

_NOT_AT_WORK = ("::IDLE", "Agent")


class Attempt:
    """`raymill ARGUMENTS`, started in a session of its own, by which its descendants are known when it is dead."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raymill", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = 600.0) -> int:
        """The exit code."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """What this attempt and those before it with the same log have printed."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300.0) -> bool:
        """Whether the condition came true; False when the command ended before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.running:
                return condition()
            assert time.monotonic() < deadline, f"waited in vain\n{self.said()[-3000:]}"
            time.sleep(0.02)
        return True

    def family(self) -> list[psutil.Process]:
        """Every living process of this attempt, the driver among them while it lives."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def kill_worker_when(self, condition: Callable[[], bool], random: Random) -> str | None:
        """Kill one of Ray's workers that has something to do. Returns what that was; None when the command ended."""
        killed: list[str] = []

        def kill() -> bool:
            if self.running and condition():
                doing = kill_one(ray_workers(psutil.Process(self.process.pid)), random)
                killed.extend([doing] if doing else [])
            return bool(killed)

        self.wait_for(kill)
        return killed[0] if killed else None

    def kill_driver(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_gone(self) -> None:
        """Nothing that a dead command left behind may stay."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.family():
            assert time.monotonic() < deadline, f"still there: {[(p.pid, _name(p)) for p in left]}"
            time.sleep(0.2)


def ray_workers(driver: psutil.Process, prefix: str = "ray::") -> list[psutil.Process]:
    """Ray's worker processes below a driver that have something to do; Ray names them after it."""
    try:
        below = driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    named = {process: _name(process) for process in below}
    return [process for process, name in named.items() if name.startswith(prefix) and not name.endswith(_NOT_AT_WORK)]


def kill_one(processes: list[psutil.Process], random: Random) -> str | None:
    """Kill one of them with -9. Returns what it was doing, None when there is none."""
    if not processes:
        return None
    victim = random.choice(processes)
    doing = _name(victim)
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    return doing


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1]) or process.name()
    except psutil.Error:
        return ""


@contextmanager
def attempts(log: Path) -> Iterator[Callable[..., Attempt]]:
    """`start(*arguments)` for attempts that share a log; whatever happens, none of them outlives the block."""
    started: list[Attempt] = []

    def start(*arguments: str) -> Attempt:
        started.append(Attempt(list(arguments), log))
        return started[-1]

    try:
        yield start
    finally:
        for attempt in started:
            for process in attempt.family():
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            attempt.process.wait()
