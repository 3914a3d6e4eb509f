"""Compiled loops over the UTF-8 buffers of Arrow arrays. They know no Ray, no policy and no file."""

from importlib.resources import files
from typing import Any

from data_engine import kernel_cache

_package: Any = files(__name__)
kernel_cache.keep_apart(_package)
