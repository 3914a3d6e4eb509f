"""Who starts the training processes: Ray Train, torch's elastic agent (what `torchrun` is), or nobody.

Ray is imported only inside the functions that use it, here and in rollout.py (vLLM's engines): with the other launchers
`raymill train` works on a machine without Ray. Ray's workers import this file too, so torch and the trainer are
imported where they are used: a worker only starts a training process (warm.py) and hands on what it says.
"""

import ctypes
import fcntl
import importlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import storage
from core.errors import RaymillError, UserError
from core.run import Run
from training import heap, warm
from training.feedback import Follower

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

    from training.trainer import TrainConfig
    from training.world import World

_HEALTH_CHECK = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
_BACKENDS = "cpu:gloo,cuda:nccl"
"""Tensors on a GPU go through NCCL; checkpoints of shards are coordinated by threads, which it does not serve."""
_RESULT, _ERROR, _LOCK, _JOB = ".result.json", ".error.json", ".trainer.lock", ".job.json"
_LOCK_SECONDS = 120.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What a training process runs: `work(config, directory, world) -> dict` of a module, with JSON-able parts."""

    module: str
    config: dict[str, Any]
    directory: str
    working_directory: str
    """Where the driver runs: relative paths of the configuration begin there, but Ray Train moves its workers."""

    def run(self, world: "World") -> None:
        """Do the work; the main rank leaves its result, a failure that is no bug leaves its message."""
        from transformers.utils.logging import disable_progress_bar

        os.chdir(self.working_directory)
        directory = Path(self.directory)
        module = importlib.import_module(self.module)
        disable_progress_bar()
        try:
            with _alone(directory) if world.is_main else _nothing():
                result = module.work(module.STAGE.config.model_validate(self.config), directory, world)
                if world.is_main:
                    storage.write_atomic(directory / _RESULT, json.dumps(result))
        except RaymillError as error:
            message = {"message": str(error), "exit_code": error.exit_code}
            storage.write_atomic(directory / _ERROR, json.dumps(message))
            raise


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Workers outlive a killed driver for a moment: wait until none of them writes here any more.

    The kernel frees the lock when its holder dies, however it dies.
    """
    with (directory / _LOCK).open("w") as file:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RaymillError(f"{directory}: another trainer still writes here; stop it first") from None
                time.sleep(0.2)
        yield


def launch(config: "TrainConfig", run: Run, module: str) -> dict[str, Any]:
    """Run `module.work` on the configured workers, show its progress, return what its main rank returned.

    Raises the workers' UserError or RaymillError, and RaymillError when workers were lost more often than
    `max_failures`.
    """
    job = Job(module, config.model_dump(mode="json"), str(run.directory.absolute()), str(Path.cwd()))
    for name in (_RESULT, _ERROR):
        run.path(name).unlink(missing_ok=True)
    launcher = "inline" if config.workers == 0 else config.launcher
    run.log.info("launcher: %s, %d worker(s)", launcher, max(1, config.workers))
    with Follower(run), run.timing("train"):
        try:
            {"ray": _ray, "torchrun": _torchrun, "inline": _inline}[launcher](job, config)
        except RaymillError:
            raise
        except Exception as error:  # whatever the launcher raises, the worker's own message is better
            _raise_workers_error(run)
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise RaymillError(f"training failed: {lines[-1].strip() if lines else type(error).__name__}") from error
    _raise_workers_error(run)
    if not run.path(_RESULT).is_file():
        raise RaymillError("the training processes ended without a result; see the worker logs")
    return json.loads(run.path(_RESULT).read_text(encoding="utf-8"))


def _raise_workers_error(run: Run) -> None:
    """Raise what a worker left as its reason to stop, if any did."""
    if run.path(_ERROR).is_file():
        found = json.loads(run.path(_ERROR).read_text(encoding="utf-8"))
        raise (UserError if found["exit_code"] == UserError.exit_code else RaymillError)(found["message"]) from None


def _is_hopeless(job: Job) -> bool:
    """Whether the work failed for a reason that a restart cannot mend.

    A restarted worker then ends as if all were well: raising again would use up every restart, minutes on Ray Train.
    """
    return (Path(job.directory) / _ERROR).is_file()


def _device(local_rank: int) -> "torch.device":
    import torch

    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# --- inline -------------------------------------------------------------------------------------------------------


def _inline(job: Job, config: "TrainConfig") -> None:
    import torch

    from training.world import World

    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or _cores())
    try:
        with heap.kept():
            job.run(World(device=_device(0)))
    finally:
        torch.set_num_threads(before)


# --- torchrun -----------------------------------------------------------------------------------------------------


def _torchrun(job: Job, config: "TrainConfig") -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.workers,
        run_id=f"raymill-{time.time_ns()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=config.max_failures,
        monitor_interval=0.5,
    )
    file = Path(job.directory) / _JOB
    storage.write_atomic(file, json.dumps(asdict(job)))
    threads = config.threads or max(1, _cores() // config.workers)
    elastic_launch(settings, sys.executable)("-m", "training.launch", str(file), str(threads))


def _torchrun_entry(file: str, threads: int) -> None:
    # Without this the workers of a killed driver would train on.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    job = Job(**json.loads(Path(file).read_text(encoding="utf-8")))
    if _is_hopeless(job):
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _join(job, _agents_store(), threads, rank, size, local, lambda step, facts: None)


def _agents_store() -> "Store":
    """Where this start of the workers meets: the agent's store, with keys of its own.

    The agent keeps one store for all starts (torch 2.13; pytorch#135712). A worker that was restarted would find the
    address of its peer's dead predecessor there and, as gloo has it, both would wait for the other to call.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
    from torch.distributed.constants import default_pg_timeout

    address, port, start = (os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"))
    store = TCPStore(address, int(port), is_master=False, timeout=default_pg_timeout)  # as env:// has it
    return PrefixStore(f"start-{start}", store)


def _join(
    job: Job,
    meeting: "str | Store",
    threads: int,
    rank: int,
    size: int,
    local: int,
    checkpointed: Callable[[int, dict[str, float]], None],
) -> None:
    """Meet the other processes of the job at an address or in a store, and do the work with them."""
    import torch
    import torch.distributed as dist

    from training.world import World

    torch.set_num_threads(threads)
    heap.keep()
    device = _device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = _BACKENDS if device.type == "cuda" else "gloo"
    where: dict[str, Any] = {"init_method": meeting} if isinstance(meeting, str) else {"store": meeting}
    dist.init_process_group(backend, rank=rank, world_size=size, **where)
    try:
        job.run(World(rank, size, device, checkpointed))
    finally:
        dist.destroy_process_group()


# --- Ray Train ----------------------------------------------------------------------------------------------------


def _ray(job: Job, config: "TrainConfig") -> None:
    from cluster import runtime

    runtime.connect()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    # TorchTrainer would import torch in the workers, which only start the processes that train.
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    gpus = ray.cluster_resources().get("GPU", 0) >= config.workers
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    share = min(runtime.cores() / config.workers, largest)
    workers: Any = config.workers if config.min_workers is None else (config.min_workers, config.workers)
    threads = config.threads or max(1, int(share))
    storage_path = Path(job.directory) / ".ray"
    # How soon a lost worker is noticed: Ray's default is every 2 s.
    os.environ.setdefault(_HEALTH_CHECK, "0.25")
    trainer = DataParallelTrainer(
        _ray_entry,
        train_loop_config={"job": job, "threads": threads, "key": secrets.token_hex(8)},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus,
            resources_per_worker={"CPU": min(threads, share), **({"GPU": 1} if gpus else {})},
        ),
        run_config=RunConfig(
            name=f"attempt-{time.time_ns()}",  # resuming is ours: a name used before would resume Ray's own records
            storage_path=str(storage_path),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    trainer.fit()


def _ray_entry(settings: dict[str, Any]) -> None:
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    from cluster import runtime

    job: Job = settings["job"]
    if _is_hopeless(job):
        return
    context = ray.train.get_context()
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    arguments = {
        "job": asdict(job),
        "address": f"tcp://{broadcast_from_rank_zero(f'{ray.util.get_node_ip_address()}:{port}')}",
        "threads": settings["threads"],
        "rank": context.get_world_rank(),
        "size": context.get_world_size(),
    }
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        # CUDA that was touched before a fork fails after it, and bitsandbytes touches it while it is imported.
        _ray_trainer(_report_to_ray, **arguments)
    else:
        # The fork is none of Ray's own workers: what it asks of Ray, such as engines for rollouts, it asks of this one.
        os.environ[runtime.ADDRESS_VARIABLE] = ray.get_runtime_context().gcs_address
        function = f"{__name__}:{_ray_trainer.__name__}"
        warm.call(settings["key"], job.module, function, arguments, lambda said: _report_to_ray(**said))


def _ray_trainer(say: warm.Say, job: dict[str, Any], address: str, threads: int, rank: int, size: int) -> None:
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a worker that was given no GPU takes none
    # Ray runs its workers at a niceness of 15, six helpers of Ray Train among them, which wake 100 times a second: on
    # cores that are all taken a step took 10 % longer than under torchrun, and 5 % without that niceness. It stays
    # where this process may not raise itself, and where somebody chose it.
    if "RAY_worker_niceness" not in os.environ:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    # Ray shows each worker its own GPU alone.
    _join(Job(**job), address, threads, rank, size, 0, lambda step, facts: say(step=step, facts=facts))


def _report_to_ray(step: int, facts: dict[str, float]) -> None:
    """Tell Ray Train that a checkpoint exists.

    Its checkpoint is a pointer: the state itself is in the run directory. A synchronous report, or one without a
    checkpoint, waits for the controller's next poll, 2 s; an asynchronous one does not.
    """
    import tempfile

    import ray.train

    folder = Path(tempfile.mkdtemp(prefix="raymill-pointer-"))  # Ray removes it after the upload
    rank = ray.train.get_context().get_world_rank()
    (folder / f"pointer-{rank}.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    ray.train.report(
        facts,
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
    )


if __name__ == "__main__":
    _torchrun_entry(sys.argv[1], int(sys.argv[2]))
