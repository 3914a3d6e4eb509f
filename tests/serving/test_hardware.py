import os
from pathlib import Path

import pytest
import torch

from serving.hardware import PROFILES, Hardware, describe, detect

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.is_file(), reason="there is no /proc/cpuinfo to compare with")
def test_what_is_detected_is_what_the_kernel_reports():
    flags = set(next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split())
    found = detect("cpu")
    assert found.gpu is None
    assert found.avx2 == ("avx2" in flags)
    # torch asks for what its kernels use together, so a flag of the CPU is necessary, not sufficient
    assert not found.avx512 or "avx512f" in flags
    assert not found.bf16 or "avx512_bf16" in flags
    assert not found.amx or "amx_tile" in flags
    assert not found.vnni or {"avx512_vnni", "avx_vnni"} & flags


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")
def test_a_gpu_is_known_by_its_compute_capability():
    major, minor = torch.cuda.get_device_capability()
    assert detect("gpu").gpu == pytest.approx(major + minor / 10)


def test_each_machine_has_a_name_by_its_strongest_unit():
    assert Hardware().name == "a CPU without AVX2"
    assert Hardware(avx2=True).name == "a CPU with AVX2"
    assert Hardware(avx2=True, avx512=True).name == "a CPU with AVX-512"
    assert Hardware(avx2=True, avx512=True, amx=True).name == "a CPU with AMX"
    assert "9.0" in Hardware(gpu=9.0).name


def test_the_kinds_of_machines_are_what_their_names_say():
    assert [kind.name for name, kind in PROFILES.items() if name in ("AVX2", "AMX")] == [
        "a CPU with AVX2",
        "a CPU with AMX",
    ]
    assert all(str(kind.gpu) == name.split()[-1] for name, kind in PROFILES.items() if kind.gpu is not None)


def test_the_description_tells_cores_and_units():
    words = describe()
    if detect().gpu is None:
        assert f"{len(os.sched_getaffinity(0))} cores" in words
        assert ("avx512" in words) == detect().avx512
