import subprocess
import sys
import tempfile

import pytest

from serving.engine import EngineSettings
from tests.serving.fixtures import save_speller


def test_the_door_and_the_driver_do_not_import_the_engine():
    """vLLM costs every process that imports it 20 s."""
    code = "import sys, serving.lifecycle, serving.up; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


def test_the_reason_of_a_failed_start_is_the_root_cause_and_not_the_wrapper():
    """In a process whose error log is a file, as a replica's is."""
    code = (
        "import sys; from serving import replica\n"
        "print('old ValueError: of an earlier start', file=sys.stderr, flush=True)\n"
        "mark = replica._log_size()\n"
        "print('(EngineCore pid=1) ValueError: No memory for the cache blocks', file=sys.stderr)\n"
        "print('RuntimeError: Engine core initialization failed. See root cause.', file=sys.stderr, flush=True)\n"
        "print(replica._reason(RuntimeError('Engine core initialization failed.'), mark))\n"
        "print(replica._reason(ValueError('1 error\\n  Value error, too long [type=x]'), mark))\n"
    )
    with tempfile.TemporaryFile() as log:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, text=True, check=True)
    assert done.stdout.splitlines() == ["ValueError: No memory for the cache blocks", "too long"]


@pytest.mark.slow
def test_rays_engine_is_of_the_kind_that_the_settings_name(tmp_path):
    from serving import replica

    checkpoint = str(save_speller(tmp_path / "model"))
    on_cpu = replica._llm_config("m", checkpoint, EngineSettings(device="cpu"), 0)
    assert on_cpu.get_engine_config().accelerator_config.kind == "cpu"
    settings = EngineSettings(device="gpu", dtype="bfloat16", tensor_parallel_size=2)
    engine = replica._llm_config("m", checkpoint, settings, 0).get_engine_config()
    assert engine.accelerator_config.kind == "gpu"
    assert (engine.num_devices, engine.placement_bundles) == (2, [{"GPU": 2}])
