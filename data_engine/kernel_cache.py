"""Where Numba keeps what it has compiled: a folder named after the sources of all kernels.

Numba looks at the file of a function alone: after a change in a function that it calls from another file, it would go
on with the old code.
"""

import hashlib
import os
import shutil
from pathlib import Path

_PREFIX = "numba-"


def keep_apart(package: Path) -> None:
    """Name the folder for the kernels in `package`, and remove those of other sources.

    A folder that the user has set (NUMBA_CACHE_DIR) stays, and so does Numba's own choice where the package lies in a
    place that cannot be written.
    """
    caches = package / "__pycache__"
    given = os.environ.get("NUMBA_CACHE_DIR")
    if (given and Path(given).parent != caches) or not os.access(package, os.W_OK):
        return
    sources = hashlib.blake2b(digest_size=8)
    for source in sorted(package.glob("*.py")):
        sources.update(source.read_bytes())
    folder = caches / f"{_PREFIX}{sources.hexdigest()}"
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    for old in caches.glob(f"{_PREFIX}*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
