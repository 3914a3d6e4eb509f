from types import SimpleNamespace

from serving import status
from serving.door_settings import DoorConfig
from serving.endpoint import Endpoint, ServedModel
from serving.engine import ModelConfig

METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="a",replica="1"} 3
vllm:num_requests_running{model_name="a",replica="2"} 2
vllm:num_requests_running{model_name="b",replica="3"} 9
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model_name="a",replica="1"} 0.5
vllm:kv_cache_usage_perc{model_name="a",replica="2"} 0.1
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{model_name="a",replica="1"} 40
vllm:spec_decode_num_draft_tokens_total{model_name="a",replica="2"} 60
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{model_name="a",replica="1"} 30
vllm:spec_decode_num_accepted_tokens_total{model_name="a",replica="2"} 20
"""


def served(name, **more):
    config = ModelConfig(model_id=name, checkpoint="m", **more)
    return ServedModel(config=config, quantization="none", max_model_len=8, version="1", adapters={"poet": ("p", "1")})


def test_figures_are_summed_over_replicas_of_a_model_and_never_over_models():
    endpoint = Endpoint(models=[served("a", aliases=["gpt"]), served("c")], keys=[], door=DoorConfig())
    running = SimpleNamespace(status=SimpleNamespace(value="HEALTHY"), replica_states={"RUNNING": 2})
    first, second = status.rows(endpoint, {"model-a": running}, METRICS)
    assert first == ["a", "healthy", "2 running", "poet", "gpt", "5", "", "30%", "50%", ""]
    assert second == ["c", "absent", "none", "poet", "", "", "", "", "", ""]
    assert len(first) == len(status.COLUMNS)
