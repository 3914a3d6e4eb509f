"""Which processor the engines run on: what is asked for, what the cluster has, what the installed vLLM is built for."""

from collections.abc import Mapping

import ray

from core.errors import UserError
from serving import hardware
from serving.hardware import Device, Hardware

_TYPE = "accelerator_type:"
# Ray names the GPUs of a node by type (ray.util.accelerators); https://developer.nvidia.com/cuda-gpus
_CAPABILITIES: Mapping[str, float] = {
    **dict.fromkeys(("A100", "A100-40G", "A100-80G"), 8.0),
    **dict.fromkeys(("L4", "L40S"), 8.9),
    **dict.fromkeys(("H100", "H200", "H20", "GH200"), 9.0),
    **dict.fromkeys(("B200", "GB200"), 10.0),
    "V100": 7.0,
    "T4": 7.5,
    "A10G": 8.6,
}


def of_engines(asked: Device) -> Hardware:
    """The hardware that engines will be started on; `auto` is a GPU where the cluster has one and vLLM uses it.

    Before Ray is connected the cluster is this machine. Raises UserError when a GPU is asked for and cannot be used.
    """
    if asked == "cpu":
        return hardware.detect("cpu")
    if asked == "auto" and not hardware.vllm_uses_gpus():
        return hardware.detect("cpu")
    capability = _of_cluster() if ray.is_initialized() else hardware.detect("gpu").gpu
    if capability is not None and hardware.vllm_uses_gpus():
        return Hardware(bf16=capability >= 8, gpu=capability)
    if asked == "auto":
        return hardware.detect("cpu")
    missing = "no node of the cluster has one now" if capability is None else "the installed vLLM is built for CPUs"
    raise UserError(f"device: gpu is asked for, but {missing}; use auto or cpu")


def _of_cluster() -> float | None:
    """Compute capability of the weakest GPU that Ray counts; None where it counts none."""
    resources = ray.cluster_resources()
    if not resources.get("GPU"):
        return None
    types = [name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)]
    if types and all(name in _CAPABILITIES for name in types):
        return min(_CAPABILITIES[name] for name in types)
    here = hardware.detect("gpu").gpu
    if here is None:
        named = ", ".join(types) or "no type"
        raise UserError(
            f"device: it is not known here what the cluster's GPUs can do (Ray names {named}); start from a node that "
            "has one, or use device: cpu"
        )
    return here
