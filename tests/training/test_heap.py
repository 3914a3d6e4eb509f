"""What is freed is not asked of the kernel again. In processes of their own: the heap is a whole process's."""

import subprocess
import sys

import pytest

SCRIPT = """
import numpy, resource
from training import heap

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [numpy.ones(2 << 20) for _ in range(5)]  # 16 MiB each
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{first}
print(faults_of_a_step())
"""
PAGES = 5 * (16 << 20) // 4096


def faults_after(first):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")
def test_a_second_step_takes_no_pages_anew():
    step = "faults_of_a_step()"
    assert faults_after(f"heap.keep(); {step}") < 0.01 * PAGES < 0.1 * PAGES < faults_after(step)


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")
def test_what_is_free_goes_back_at_the_end():
    assert faults_after("with heap.kept(): faults_of_a_step()") > 0.1 * PAGES
