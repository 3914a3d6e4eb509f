"""Ray Data under the build: small rows in, one pure function for each, small facts out as they finish."""

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from core import storage
from core.errors import RaymillError, UserError
from core.run import Run

_CORES = 1.0
"""Cores of one task."""
_MOST_BLOCKS = 10_000
_QUIET = ("ray.data", "ray.data.dataset", "ray.data._internal")

log = logging.getLogger("raymill.data")

Task = dict[str, Any]


def map_tasks(
    run: Run,
    description: str,
    tasks: Sequence[Task],
    work: Callable[[Task], dict[str, Any]],
    counted: str | None = None,
) -> list[dict[str, Any]]:
    """Run `work` on every task, as Ray Data tasks of one core each. Returns the results in no order.

    A task writes its files itself and returns a few facts; `counted` names the one that the progress display adds up. A
    task whose process dies is run again; a task that raises ends the stage: RaymillErrors, and what the system says of
    a full disk, pass through as they are. A single task runs here: there is nothing to share out.
    """
    if not tasks:
        return []
    results = []
    done = 0
    with run.timing(description.replace(" ", "_")), run.progress(description, len(tasks), "parts") as progress:
        for result in [work(tasks[0])] if len(tasks) == 1 else _stream(tasks, work):
            results.append(result)
            if counted is None:
                progress.advance()
            else:
                done += int(result[counted])
                progress.advance(**{counted: done})
    return results


def _stream(tasks: Sequence[Task], work: Callable[[Task], dict[str, Any]]) -> Any:
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # a task travels in its own row: of a million files in the list of all, each task would load every name
    rows = [{"task": pickle.dumps(task)} for task in tasks]

    def run_one(row: dict[str, Any]) -> dict[str, Any]:
        # A readable error travels as a value: an exception's cause is lost on its way through Ray Data.
        try:
            return {"result": work(pickle.loads(row["task"]))}  # noqa: S301 (the driver's own)
        except RaymillError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            if storage.is_full(error):
                return {"full": error.errno}
            said = f"a task failed: {type(error).__name__}: {error}"
            return {"error": said, "exit_code": RaymillError.exit_code, "trace": traceback.format_exc()}

    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(run_one, num_cpus=_CORES)
    try:
        for row in dataset.iter_rows():
            if row.get("full"):
                raise OSError(row["full"], os.strerror(row["full"]))
            if row.get("error"):
                log.debug("%s", row.get("trace") or row["error"])
                raise (UserError if row["exit_code"] == UserError.exit_code else RaymillError)(row["error"])
            yield row["result"]
    except RayError as error:
        first = str(error).strip().splitlines()[0]
        raise RaymillError(f"Ray could not finish: {first}; what is done is kept, run it again") from error
