import json

import torch
from safetensors.torch import save_file

from serving import footprint

INT4 = {"num_bits": 4, "type": "int", "group_size": 64}


def test_memory_counts_what_is_not_quantized_at_the_width_it_is_served_in(tmp_path):
    tensors = {
        "norm": torch.ones(10, dtype=torch.float32),
        "proj.weight": torch.ones(8, 4, dtype=torch.int8),
        "proj.weight_scale": torch.ones(8, 1, dtype=torch.bfloat16),
        "other.weight": torch.ones(3, 3).to(torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert footprint.memory_bytes(tmp_path, {}) == 2 * (10 + 8) + 32 + 9
    assert footprint.memory_bytes(tmp_path, {}, itemsize=4) == 4 * (10 + 8) + 32 + 9
    assert footprint.disk_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size


def test_four_bits_that_lie_in_eight_on_disk_are_packed_in_memory(tmp_path):
    save_file({"proj.weight": torch.ones(8, 4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    activations = {"num_bits": 8, "type": "int", "dynamic": True}
    groups = {"group_0": {"weights": INT4, "input_activations": activations}}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    assert footprint.memory_bytes(tmp_path, config) == 16
    groups["group_0"]["weights"] = INT4 | {"num_bits": 8}
    assert footprint.memory_bytes(tmp_path, json.loads(json.dumps(config))) == 32
