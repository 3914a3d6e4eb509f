import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.auth import Key, digest
from tests.serving.doors import BEARER, KEY, Parrot, ask, catalogue_of, hanging_stream, listening, wait_for


@pytest.fixture
def client():
    with listening({"parrot": Parrot()}) as (_, client):
        yield client


def samples(client):
    text = client.get("/metrics", headers=BEARER).text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


WHO = (("key", "alice"), ("model", "parrot"))


def test_an_answer_is_counted_for_its_model_and_key_with_its_times(client):
    ask(client, "a b c d", stream=True)
    ask(client, "a b c d")
    found = samples(client)
    route = (("route", "/v1/completions"), ("status", "200"))
    assert found["raymill_requests_total", *WHO, *route] == 2
    assert found["raymill_tokens_total", *WHO[:1], ("kind", "completion"), WHO[1]] == 8
    assert found["raymill_tokens_total", *WHO[:1], ("kind", "prompt"), WHO[1]] == 14
    for name in ("time_to_first_token", "request", "engine", "door", "door_before_engine"):
        assert found[f"raymill_{name}_seconds_count", *WHO] == 2, name
    assert found["raymill_time_per_output_token_seconds_count", *WHO] == 1
    whole, engine, door = (found[f"raymill_{name}_seconds_sum", *WHO] for name in ("request", "engine", "door"))
    assert whole == pytest.approx(engine + door)
    assert found["raymill_requests_limit", ("model", "parrot")] == 3


def test_who_leaves_and_who_is_inside_is_counted(client):
    with hanging_stream(client):
        assert samples(client)["raymill_requests_inside", ("model", "parrot")] == 1
    wait_for(lambda: samples(client).get(("raymill_clients_left_total", *WHO)) == 1)
    assert samples(client)["raymill_requests_inside", ("model", "parrot")] == 0


def test_strangers_cannot_make_labels(client):
    for number in range(20):
        ask(client, model=f"model-{number}")
        client.get(f"/path-{number}", headers={"Authorization": f"Bearer {number}"})
        client.get(f"/path-{number}", headers=BEARER)
    labels = {label for sample in samples(client) for label in sample[1:]}
    assert not [value for _, value in labels if value.startswith(("model-", "/path-"))]
    assert KEY not in str(labels)


def test_a_model_that_may_sleep_has_its_engines_metrics_while_it_is_awake():
    with listening({}, catalogue=catalogue_of({"parrot": Parrot()}, sleeps=True)) as (_, client):
        assert "vllm:num_requests_running 0" in client.get("/metrics", headers=BEARER).text


def test_a_key_reads_of_no_other_key_unless_it_is_an_operators():
    names = ("alice", "al", "bob", "root")
    secrets = {name: f"rml-0123456789abcdefghij-{name}" for name in names}
    keys = [Key(name=name, digest=digest(secret), operator=name == "root") for name, secret in secrets.items()]
    bearers = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
    with listening({"parrot": Parrot()}, keys=keys) as (_, client):
        for name in names[:3]:
            ask(client, headers=bearers[name])
        ask(client, headers={"Authorization": "Bearer wrong"})
        seen = {name: client.get("/metrics", headers=bearer).text for name, bearer in bearers.items()}
    for name in names[:3]:
        told = {line.split('key="')[1].split('"')[0] for line in seen[name].splitlines() if 'key="' in line}
        assert told == {name, "none"}, "who has no key is nobody in particular"
        assert "vllm:num_requests_running 0" in seen[name]
        assert "raymill_requests_limit" in seen[name]
    assert all(f'key="{name}"' in seen["root"] for name in ("alice", "al", "bob", "none"))
