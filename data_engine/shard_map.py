"""Ray Data under the build: small rows in, one pure function for each, small facts out as they finish."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from core.errors import RaymillError, UserError
from core.run import Run

_MOST_BLOCKS = 10_000
_QUIET = ("ray.data", "ray.data.dataset", "ray.data._internal")

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
    task whose process dies is run again; a task that raises ends the stage: RaymillErrors pass through as they are.
    A single task runs here: there is nothing to share out.
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
    rows = [{"task": number} for number in range(len(tasks))]
    held = ray.put(list(tasks))

    def run_one(row: dict[str, Any]) -> dict[str, Any]:
        # A readable error travels as a value: an exception's cause is lost on its way through Ray Data.
        try:
            return {"result": work(ray.get(held)[row["task"]])}
        except RaymillError as error:
            return {"error": str(error), "exit_code": error.exit_code}

    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(run_one, num_cpus=1)
    try:
        for row in dataset.iter_rows():
            if row.get("error"):
                raise (UserError if row["exit_code"] == UserError.exit_code else RaymillError)(row["error"])
            yield row["result"]
    except RayTaskError as error:
        cause: BaseException = error
        while isinstance(below := getattr(cause, "cause", None), BaseException):
            cause = below
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise RaymillError(f"a task failed: {type(cause).__name__}: {cause}") from error
    except RayError as error:
        first = str(error).strip().splitlines()[0]
        raise RaymillError(f"Ray could not finish: {first}; what is done is kept, run it again") from error
