"""In the place of an engine, without vLLM."""

import os
import time


def report(path):
    """Say who this is and what it was given, then stay."""
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {os.environ.get('SET_LATE')}")
    os.rename(path, f"{path}.whole")
    time.sleep(60)
