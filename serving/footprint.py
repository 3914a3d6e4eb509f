"""What a checkpoint takes: bytes on disk, bytes of weights in memory."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving import preflight

_FLOATS = ("F64", "F32", "F16", "BF16")


def disk_bytes(directory: str | Path) -> int:
    """Size of a checkpoint's weights on disk."""
    return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))


def memory_bytes(directory: str | Path, config: Mapping[str, Any], itemsize: int = 2) -> int:
    """Size of the weights as an engine holds them, with `itemsize` bytes for each number that is not quantized.

    By the headers of the files, nothing is loaded. INT4 W4A8 lies in 8 bits on disk and is packed when it is loaded.
    """
    halved = preflight.number_format(config) == "int4_w4a8"
    total = 0
    for file in Path(directory).glob("*.safetensors"):
        for tensor in _header(file).values():
            stored = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            if tensor["dtype"] in _FLOATS:
                total += _count(tensor["shape"]) * itemsize
            else:
                total += stored // 2 if halved and tensor["dtype"] == "I8" else stored
    return total


def _header(file: Path) -> dict[str, Any]:
    """Name, type, shape and place of every tensor of a safetensors file: https://github.com/huggingface/safetensors."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
