"""Which modules and packages the reference documents. A package that is not installed is left out."""

from typing import NamedTuple

MIN_WORDS = 50
"""Words of docstring that make a page."""

_STANDARD = """
abc argparse ast asyncio base64 bdb bisect bz2 calendar cmd code codecs collections concurrent configparser
contextlib copy copyreg csv ctypes dataclasses datetime decimal difflib dis doctest email enum filecmp fileinput
fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib
importlib inspect io ipaddress json linecache locale logging lzma mailbox mimetypes multiprocessing netrc numbers
opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
profile pstats pyclbr pydoc queue quopri random re reprlib runpy sched secrets selectors shelve shlex shutil
smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable sysconfig
tarfile tempfile textwrap threading timeit token tokenize tomllib trace traceback tracemalloc turtle types typing
unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo
"""
STANDARD = tuple(_STANDARD.split())
STANDARD_BEHIND = ("_collections_abc", "_pydecimal", "_pydatetime", "_pyio", "_strptime", "_weakrefset")
"""Private modules behind public ones."""


class Part(NamedTuple):
    """What is shown of a package.

    depth: parts of a module's name at most, `numpy.linalg` has two; only: dotted names, none means everything.
    """

    depth: int = 2
    only: tuple[str, ...] = ()


PACKAGES: dict[str, Part] = {
    "aiohttp": Part(),
    "click": Part(),
    "datasketch": Part(),
    "fastapi": Part(),
    "fsspec": Part(),
    "httpx": Part(),
    "jinja2": Part(),
    "lxml": Part(),
    "networkx": Part(
        depth=1,
        only=(
            *("networkx.algorithms.centrality", "networkx.algorithms.components", "networkx.algorithms.shortest_paths"),
            *("networkx.algorithms.traversal", "networkx.algorithms.tree", "networkx.algorithms.cluster"),
            *("networkx.algorithms.dag", "networkx.classes", "networkx.generators", "networkx.convert"),
        ),
    ),
    "numpy": Part(),
    "packaging": Part(),
    "pandas": Part(depth=1),
    "psutil": Part(),
    "pyarrow": Part(),
    "pydantic": Part(),
    "requests": Part(),
    "rich": Part(),
    "safetensors": Part(),
    "tokenizers": Part(),
    "torch": Part(
        only=(
            *("torch.nn", "torch.optim", "torch.utils.data", "torch.distributions", "torch.functional"),
            *("torch.amp", "torch.serialization", "torch.random", "torch.hub"),
        )
    ),
    "tqdm": Part(),
    "trafilatura": Part(),
    "transformers": Part(
        depth=1,
        only=(
            *("transformers.generation", "transformers.trainer", "transformers.training_args"),
            *("transformers.configuration_utils", "transformers.tokenization_utils_base", "transformers.optimization"),
        ),
    ),
    "typer": Part(),
    "warcio": Part(),
}

SMALL_STANDARD = ("argparse", "asyncio", "json", "logging", "pathlib", "statistics", "textwrap")
SMALL_PACKAGES: dict[str, Part] = {"datasketch": Part(), "httpx": Part()}
SMALL_PROJECTS = 12
"""For tests: about 250 pages."""
