"""`raymill cluster doctor`: what on a machine, or on a node of a cluster, would make stages fail, and how to mend it.

Every check looks, and changes nothing. A problem ends stages; a warning is about some of them, or about speed.
"""

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import psutil
from packaging.requirements import Requirement

from core.errors import UserError

_GIB = 1 << 30
_FILES = 8_192  # every connection of a client, a worker and a shard is one; systems of today allow far more
_DISK_FULL = 0.95  # Ray creates no object when the disk it spills to is fuller (RAY_local_fs_capacity_threshold)
_SHARED = "/dev/shm"  # noqa: S108 (the place itself is meant)
_SHARED_MEMORY = 0.3  # of the memory: the share that Ray's object store takes
_SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
_LONGEST_SOCKET = 107  # bytes: sun_path of unix(7), without its end
_LITTLE_MEMORY_GIB = 4


@dataclass(frozen=True)
class Finding:
    """What one check found, and for what is no `ok`, how to mend it."""

    subject: str
    state: Literal["ok", "warning", "problem"]
    found: str
    mend: str = ""

    def row(self) -> list[str]:
        """For the table."""
        return [self.subject, self.state, self.found, self.mend]


COLUMNS = ("subject", "state", "found", "mend")


def examine() -> list[Finding]:
    """All checks, on the machine that this runs on."""
    return [check() for check in _CHECKS]


def examine_cluster() -> dict[str, list[Finding]]:
    """The same on every node of the Ray cluster that this process is connected to, by the node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(examine)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = ray.get([task.options(scheduling_strategy=place).remote() for place in places])
    names = [f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in nodes]
    return dict(zip(names, answers, strict=True))


def _packages() -> Finding:
    wrong = []
    for line in metadata.requires("raymill") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Finding("packages", "problem", "; ".join(wrong), "make setup")
    return Finding(
        "packages", "ok", f"Python {python}, Ray {metadata.version('ray')}, torch {metadata.version('torch')}"
    )


def _engine() -> Finding:
    from serving import hardware, preflight

    version = hardware.vllm_version()
    if version is None:
        return Finding("vLLM", "warning", "is not installed: nothing can be served here", "make setup")
    if (warning := preflight.other_vllm()) is not None:
        return Finding("vLLM", "warning", *warning.split("; ", maxsplit=1))
    return Finding("vLLM", "ok", version)


def _formats() -> Finding:
    from serving import hardware, preflight

    machine = hardware.detect()
    names = [name for name in preflight.FORMATS if name != "none" and preflight.runs(name, machine).ok]
    if names:
        return Finding("number formats", "ok", f"{machine.name}: {', '.join(names)}")
    return Finding(
        "number formats", "warning", f"{machine.name}: full precision alone", "raymill serve preflight says why"
    )


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    available = memory.available / _GIB
    found = f"{available:.1f} of {memory.total / _GIB:.1f} GiB available, {len(os.sched_getaffinity(0))} cores"
    if available < _LITTLE_MEMORY_GIB:
        return Finding("memory", "warning", found, "end what else runs here")
    return Finding("memory", "ok", found)


def _shared_memory() -> Finding:
    size, wanted = shutil.disk_usage(_SHARED).total, _SHARED_MEMORY * psutil.virtual_memory().total
    found = f"{_SHARED} has {size / _GIB:.1f} GiB"
    if size < wanted:
        mend = f"docker run --shm-size={wanted / _GIB:.1f}g: Ray's object store lies on disk otherwise"
        return Finding("shared memory", "warning", found, mend)
    return Finding("shared memory", "ok", found)


def _disk() -> Finding:
    worst, left = 0.0, []
    for path in dict.fromkeys((os.getcwd(), tempfile.gettempdir())):
        usage = shutil.disk_usage(path)
        worst = max(worst, 1 - usage.free / usage.total)
        left.append(f"{usage.free / _GIB:.1f} GiB free at {path}")
    if worst > _DISK_FULL:
        return Finding("disk", "problem", ", ".join(left), f"Ray spills nothing to a disk over {_DISK_FULL:.0%} full")
    return Finding("disk", "ok", ", ".join(left))


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    unlimited = limit == resource.RLIM_INFINITY
    found = f"at most {'any number' if unlimited else f'{limit:,}'} in a process"
    if not unlimited and limit < _FILES:
        return Finding("open files", "warning", found, f"raise the hard limit (ulimit -Hn) to {_FILES:,}")
    return Finding("open files", "ok", found)


def _socket_paths() -> Finding:
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    longest = len(os.fsencode(folder)) + _SOCKET
    if longest > _LONGEST_SOCKET:
        room = _LONGEST_SOCKET - _SOCKET
        return Finding(
            "socket paths", "problem", f"{folder} is too long for Ray's sockets", f"TMPDIR of at most {room} bytes"
        )
    return Finding("socket paths", "ok", f"under {folder}")


def _compiler() -> Finding:
    name = os.environ.get("CXX", "c++")
    if shutil.which(name) is None:
        mend = "install a C++ compiler, such as Debian's g++"
        return Finding("compiler", "warning", f"{name} is not here: `compile: true` fails", mend)
    return Finding("compiler", "ok", str(shutil.which(name)))


def _sandbox() -> Finding:
    from core import sandbox

    try:
        sandbox.check()
    except UserError as error:
        reason, _, mend = str(error).partition("; ")
        return Finding("sandbox", "warning", reason, mend)
    return Finding("sandbox", "ok", "programs that models write can be isolated")


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _packages,
    _engine,
    _formats,
    _memory,
    _shared_memory,
    _disk,
    _open_files,
    _socket_paths,
    _compiler,
    _sandbox,
)
