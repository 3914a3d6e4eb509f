"""The processes of the suite's endpoint, by what they call themselves."""

import psutil

TITLES = {
    "engine": "multiprocessing.forkserver",
    "replica": "ray::ServeReplica:raymill:model-",
    "door": "ray::ServeReplica:raymill:door",
}


def processes(kind: str) -> list[psutil.Process]:
    """Those of a kind of `TITLES` that live."""
    title, found = TITLES[kind], []
    for process in psutil.Process().children(recursive=True):
        try:
            # An engine is forked from its like, and has no child of its own.
            if title in " ".join(process.cmdline()) and (kind != "engine" or not process.children()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
