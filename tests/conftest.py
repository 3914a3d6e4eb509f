"""What every test shares: one Ray for the whole run, real data where it is, the command line as users call it."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import cluster  # noqa: F401  # before Ray: it sets what `import ray` reads

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("unhurried", deadline=None)  # timings decide no test
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """An embedded Ray, started once for the whole run."""
    import ray

    from cluster import runtime

    runtime.connect("local")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real acceptance data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("RAYMILL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set RAYMILL_TEST_DATA to the folder of acceptance data")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tiny matrices: two threads would spend the time waiting for one another."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def raymill(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the command as a user does: `raymill("data", "build", "x.yaml")`, in an empty folder."""

    def call(*arguments: str, cwd: Path = tmp_path, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "raymill", *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return call


@pytest.fixture
def raymill_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """The same in this process, which has loaded the libraries already: for all but what only a process can show."""
    from raymill import cli

    monkeypatch.chdir(tmp_path)
    terminate, log = signal.getsignal(signal.SIGTERM), logging.getLogger("raymill")
    handlers, level, propagate = list(log.handlers), log.level, log.propagate

    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        capsys.readouterr()
        words = [str(argument) for argument in arguments]
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        code = ended.value.code
        return subprocess.CompletedProcess(words, code if isinstance(code, int) else 1, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, terminate)
    log.handlers[:], log.propagate = handlers, propagate  # the command's own write to a stream that is gone by now
    log.setLevel(level)
