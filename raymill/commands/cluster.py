"""`raymill cluster`: start a local cluster, send jobs to a cluster, follow and stop them."""

import time
from typing import Annotated

import typer

from core.errors import RaymillError, UserError
from raymill import console

app = typer.Typer(help="Ray clusters and the jobs on them.", no_args_is_help=True, rich_markup_mode=None)

ADDRESS = typer.Option(help="dashboard URL of the cluster, as http://127.0.0.1:8265; default: the local cluster")
JOB = typer.Argument(help="id of the job", show_default=False)


@app.command(epilog="Example: raymill cluster up --local")
def up(
    local: Annotated[bool, typer.Option("--local", help="one node on this machine")] = False,
    cores: Annotated[int | None, typer.Option(help="CPU cores that Ray may hand out; default: all", min=1)] = None,
    port: Annotated[int, typer.Option(help="port of the cluster's head", min=1, max=65535)] = 6379,
    dashboard_port: Annotated[
        int, typer.Option(help="port of the dashboard and of the job server", min=1, max=65535)
    ] = 8265,
) -> None:
    """Start a Ray cluster that outlives this command."""
    from cluster import local as local_cluster

    if not local:
        raise UserError("cluster up: only clusters on this machine can be started so far; add --local")
    running = local_cluster.current()
    cluster = running or local_cluster.up(cores, port, dashboard_port)
    console.say(
        f"{'already running' if running else 'started'}: Ray at {cluster.address}, dashboard {cluster.dashboard}"
    )
    console.say(
        "use it:  raymill run RECIPE.yaml --address auto   or   raymill cluster submit -- train pretrain CONFIG"
    )
    console.say("stop it: raymill cluster down")


@app.command(epilog="Example: raymill cluster down")
def down() -> None:
    """Stop the cluster that `cluster up --local` started, and nothing else."""
    from cluster import local as local_cluster

    console.say("stopped" if local_cluster.down() else "no local cluster is running")


@app.command(epilog="Example: raymill cluster doctor --address auto")
def doctor(
    address: Annotated[
        str | None, typer.Option(help="auto or ADDRESS: every node of that cluster; default: this machine alone")
    ] = None,
) -> None:
    """Check what stages need: packages, memory, disk, limits, the sandbox, number formats. Changes nothing."""
    from raymill import doctor as checks

    if address is None:
        found = {"this machine": checks.examine()}
    else:
        from cluster import runtime

        runtime.connect(address)
        found = checks.examine_cluster()
    for place, findings in found.items():
        console.table(checks.COLUMNS, [finding.row() for finding in findings], title=place)
    states = [finding.state for findings in found.values() for finding in findings]
    console.say(f"{states.count('ok')} ok, {states.count('warning')} warnings, {states.count('problem')} problems")
    if "problem" in states:
        raise typer.Exit(1)


@app.command(
    epilog="Example: raymill cluster submit -- train pretrain examples/pretrain.yaml",
    context_settings={"ignore_unknown_options": True},
)
def submit(
    command: Annotated[list[str], typer.Argument(help="any raymill command, after --", show_default=False)],
    address: Annotated[str | None, ADDRESS] = None,
    wait: Annotated[bool, typer.Option("--wait", help="follow the log and exit with the job's result")] = False,
) -> None:
    """Run a raymill command as a job on a cluster. The same command twice is one job while it runs."""
    from cluster import jobs

    client = jobs.client(address)
    name, new = jobs.submit(client, command)
    console.say(f"{'submitted' if new else 'already running'}: {name}")
    if wait:
        _follow(name, address)
    else:
        console.say(f"follow it: raymill cluster logs -f {name}")


@app.command("jobs", epilog="Example: raymill cluster jobs")
def list_jobs(address: Annotated[str | None, ADDRESS] = None) -> None:
    """List the cluster's jobs, oldest first."""
    from cluster import jobs

    rows = []
    for job in jobs.listing(jobs.client(address)):
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000))
        seconds = ((job.end_time or time.time() * 1000) - (job.start_time or 0)) / 1000
        command = job.entrypoint.partition("-m raymill ")[2] or job.entrypoint
        rows.append([str(job.submission_id), job.status.value.lower(), began, f"{seconds:,.0f} s", command])
    if rows:
        console.table(["job", "status", "started", "took", "command"], rows)
    else:
        console.say("no jobs yet")


@app.command(epilog="Example: raymill cluster logs -f train-pretrain-1a2b3c4d")
def logs(
    job: Annotated[str, JOB],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="stay until the job ends")] = False,
    address: Annotated[str | None, ADDRESS] = None,
) -> None:
    """Print what a job has printed."""
    from cluster import jobs

    if follow:
        _follow(job, address)
    else:
        typer.echo(jobs.logs(jobs.client(address), job), nl=False)


@app.command(epilog="Example: raymill cluster stop train-pretrain-1a2b3c4d")
def stop(job: Annotated[str, JOB], address: Annotated[str | None, ADDRESS] = None) -> None:
    """Stop a job; submitting the same command again goes on from its last checkpoint."""
    from cluster import jobs

    console.say(f"{job}: {jobs.stop(jobs.client(address), job).value.lower()}")


def _follow(name: str, address: str | None) -> None:
    from cluster import jobs

    client = jobs.client(address)
    for text in jobs.follow(client, name):
        typer.echo(text, nl=False)
    ended = jobs.status(client, name).value.lower()
    if ended != "succeeded":
        raise RaymillError(f"{name}: the job {ended}")
