import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from serving import engine_metrics


def exported(name, value):
    registry = prometheus_client.CollectorRegistry()
    asked = prometheus_client.Counter("vllm:asked", "Requests.", ["model_name"], registry=registry)
    asked.labels(name).inc(value)
    seconds = prometheus_client.Histogram("vllm:seconds", "Time } of a step.", ["model_name"], registry=registry)
    seconds.labels(name).observe(value)
    prometheus_client.Gauge("process_memory", "Bytes.", registry=registry).set(7)
    prometheus_client.Gauge("python_info", "Of no interest.", registry=registry).set(1)
    return prometheus_client.generate_latest(registry).decode()


def test_no_family_is_described_twice_and_no_sample_is_lost_or_doubled():
    texts = [
        engine_metrics.labelled(exported("a } b", 2), replica="1"),
        engine_metrics.labelled(exported("a } b", 3), replica="2"),
        engine_metrics.labelled(exported("c", 4), replica="3"),
        "plain 1\n",
    ]
    joined = engine_metrics.join(texts)
    heads = [line for line in joined.splitlines() if line.startswith("#")]
    assert len(heads) == len(set(heads))
    samples = [line for line in joined.splitlines() if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in samples}) == len(samples)
    assert not any(line.startswith("python_") for line in samples)
    families = {family.name: family for family in text_string_to_metric_families(joined)}
    counted = {s.labels["replica"]: s.value for s in families["vllm:asked"].samples if s.name.endswith("_total")}
    assert counted == {"1": 2, "2": 3, "3": 4}
    assert {sample.labels["model_name"] for sample in families["vllm:seconds"].samples} == {"a } b", "c"}
    assert families["vllm:seconds"].documentation == "Time } of a step."
    assert len(families["process_memory"].samples) == 3


def test_joining_what_was_joined_changes_nothing():
    once = engine_metrics.join([engine_metrics.labelled(exported("a", 1), replica="1")])
    assert engine_metrics.join([once]) == once
    assert engine_metrics.join([]) == ""
