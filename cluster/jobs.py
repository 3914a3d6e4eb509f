"""Ray jobs: any Raymill command, sent to a running cluster, followed, listed, stopped."""

import hashlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster import local, runtime
from core.errors import RaymillError, UserError

_POLL_SECONDS = 1.0
_AGENT_SECONDS = 90.0
_RUNNING = (JobStatus.PENDING, JobStatus.RUNNING)


def client(address: str | None) -> JobSubmissionClient:
    """Connect to a cluster's job server.

    address: a dashboard URL; None means RAY_API_SERVER_ADDRESS, else the local cluster. Raises UserError when none
    answers.
    """
    chosen = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if chosen is None:
        running = local.current()
        if running is None:
            raise UserError(
                "no cluster runs here; start one with 'raymill cluster up --local' or name one with --address"
            )
        chosen = running.dashboard
    url = urlsplit(chosen)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UserError(f"--address {chosen}: expected the URL of a dashboard, as http://127.0.0.1:8265")
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    runtime.require_listener(chosen, "job server", url.hostname, port, "is the address right, is the cluster up?")
    try:
        return JobSubmissionClient(chosen)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {chosen}: no job server answers there ({str(error).splitlines()[0]})") from None


def submit(jobs: JobSubmissionClient, arguments: Sequence[str]) -> tuple[str, bool]:
    """Run `raymill ARGUMENTS` as a job. Returns its id and whether it is new.

    The id is derived from the command, the content of the files it names, and the folder that their paths are meant
    from, so that submitting twice, also after a lost connection, does not run twice. Work that has ended gets a new
    id and runs again.
    """
    if not arguments:
        raise UserError("nothing to submit; as in: raymill cluster submit -- train pretrain pretrain.yaml")
    words = [word for word in arguments[:2] if word.isalpha()]
    base = "-".join([*(words or ["raymill"]), _digest(arguments)])
    taken = {job.submission_id: job.status for job in jobs.list_jobs() if job.submission_id}
    attempt = 1
    while (name := base if attempt == 1 else f"{base}-{attempt}") in taken:
        if taken[name] in _RUNNING:
            return name, False
        attempt += 1
    command = shlex.join([sys.executable, "-m", "raymill", *arguments])
    # The job starts in Ray's session folder; paths in the command and its configuration are meant from here.
    entrypoint = f"cd {shlex.quote(str(Path.cwd()))} && exec {command}"
    return _send(jobs, entrypoint, name), True


def _send(jobs: JobSubmissionClient, entrypoint: str, name: str) -> str:
    """Submit, and wait for a cluster that has just started: its dashboard answers before a node can take jobs."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return jobs.submit_job(entrypoint=entrypoint, submission_id=name)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise RaymillError(f"{name}: the cluster does not take the job: {str(error).splitlines()[0]}") from None
        time.sleep(_POLL_SECONDS)


def follow(jobs: JobSubmissionClient, name: str) -> Iterator[str]:
    """The job's output as it comes, until the job ends."""
    shown = 0
    while True:
        ended = status(jobs, name) not in _RUNNING
        text = logs(jobs, name)
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def logs(jobs: JobSubmissionClient, name: str) -> str:
    """Everything the job has printed. Raises UserError for an unknown id."""
    status(jobs, name)
    return str(jobs.get_job_logs(name))


def status(jobs: JobSubmissionClient, name: str) -> JobStatus:
    """Raises UserError for an unknown id."""
    try:
        return jobs.get_job_status(name)
    except RuntimeError:
        raise UserError(f"{name}: the cluster knows no such job; 'raymill cluster jobs' lists them") from None


def stop(jobs: JobSubmissionClient, name: str, seconds: float = 30.0) -> JobStatus:
    """Stop a job and wait until it has stopped. Returns its last status."""
    if status(jobs, name) in _RUNNING:
        jobs.stop_job(name)
    deadline = time.monotonic() + seconds
    while (now := status(jobs, name)) in _RUNNING:
        if time.monotonic() > deadline:
            raise RaymillError(f"{name}: still {now} {seconds:.0f} s after the stop")
        time.sleep(_POLL_SECONDS)
    return now


def listing(jobs: JobSubmissionClient) -> list[JobDetails]:
    """Jobs sent to the cluster, oldest first."""
    return sorted((job for job in jobs.list_jobs() if job.submission_id), key=lambda job: job.start_time or 0)


def _digest(arguments: Sequence[str]) -> str:
    state = hashlib.blake2b(f"{Path.cwd()}\0".encode(), digest_size=4)
    for argument in arguments:
        state.update(argument.encode() + b"\0")
        if Path(argument).is_file():
            state.update(Path(argument).read_bytes())
    return state.hexdigest()
