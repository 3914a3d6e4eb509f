"""A running endpoint is changed while clients ask on: adapters, models, engines, aliases; nothing fails.

The last file of this package that needs the endpoint: it does not leave it as it was.
"""

import shutil
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.errors import RaymillError, UserError
from serving import lifecycle, status, update
from serving.endpoint import Address, Endpoint
from serving.engine import Adapter, ModelConfig
from serving.up_config import UpConfig
from tests.serving.conftest import served_model
from tests.serving.doors import wait_for
from tests.serving.processes import processes

PROMPT = "Serialize obj to a"


# --- words --------------------------------------------------------------------------------------------------------


def described(model_id="a", version="1", adapters=None, aliases=(), **door):
    from serving.door_settings import DoorConfig
    from serving.endpoint import ServedModel

    config = ModelConfig(model_id=model_id, checkpoint="m", aliases=list(aliases), **door.pop("more", {}))
    model = ServedModel(config=config, quantization="none", max_model_len=8, version=version, adapters=adapters or {})
    return Endpoint(models=[model], keys=[], door=DoorConfig(**door))


def test_the_difference_of_two_endpoints_is_said_in_words():
    old = described(adapters={"x": ("p", "1"), "y": ("p", "1")}, aliases=["gpt"])
    new = described(version="2", adapters={"x": ("p", "2"), "z": ("p", "1")}, aliases=["gpt-4"], max_waiting=5)
    assert list(update.differences(old, new)) == [
        "model a: another engine",
        "model a: adapter z: added",
        "model a: adapter x: changed",
        "model a: adapter y: removed",
        "model a: alias gpt-4: added",
        "model a: alias gpt: removed",
        "max_waiting: 5",
    ]
    assert list(update.differences(old, described("b"))) == ["model b: added", "model a: removed"]
    assert list(update.differences(old, old)) == []


def test_what_stops_runs_on_until_nobody_is_sent_to_it():
    old, new = described(adapters={"x": ("p", "1")}), described(version="2", adapters={"z": ("p", "1")})
    (both,) = update.merged(old, new)
    assert both.version == "2"
    assert list(both.adapters) == ["x", "z"]
    assert [one.config.model_id for one in update.merged(old, described("b"))] == ["b", "a"]


# --- a real one ---------------------------------------------------------------------------------------------------


@contextmanager
def asking(endpoint, names):
    """Clients that ask without a pause, streaming; yields the list of what went wrong."""
    stop, wrong, done = threading.Event(), [], []

    def ask(name):
        body = {"model": name, "prompt": PROMPT, "max_tokens": 40, "ignore_eos": True, "stream": True, "temperature": 0}
        with httpx.Client(timeout=120, headers=endpoint.bearer) as client:
            while not stop.is_set():
                try:
                    with client.stream("POST", f"{endpoint.url}/completions", json=body) as response:
                        text = "".join(response.iter_text())
                    whole = response.status_code == 200 and text.rstrip().endswith("data: [DONE]")
                    (done if whole and '"error"' not in text else wrong).append(
                        (name, response.status_code, text[:200])
                    )
                except httpx.HTTPError as error:
                    wrong.append((name, type(error).__name__, str(error)))

    clients = [threading.Thread(target=ask, args=(name,)) for name in names]
    for client in clients:
        client.start()
    try:
        yield wrong
        assert done, "nobody was answered, so nothing was tested"
    finally:
        stop.set()
        for client in clients:
            client.join()


def engines():
    found = {process.pid for process in processes("engine")}
    assert found, "the endpoint has no engine, or it calls itself otherwise"
    return found


def complete(endpoint, model):
    body = {"model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    return httpx.post(f"{endpoint.url}/completions", json=body, headers=endpoint.bearer, timeout=120)


def text_of(endpoint, model):
    response = complete(endpoint, model)
    assert response.status_code == 200, response.text
    assert response.json()["model"] in (model, endpoint.model_id, "plain")
    return response.json()["choices"][0]["text"]


def save_adapter(base, folder, seed):
    """A LoRA adapter that changes every answer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"], lora_alpha=64))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    wrapped.save_pretrained(str(folder))
    return folder


def reference(base, adapter, count=24):
    """What `peft` makes of it, greedy."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    made = model.generate(input_ids=ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)[0]
    return "".join(tokenizer.convert_ids_to_tokens(made.tolist()[ids.shape[1] :]))


@pytest.mark.slow
def test_models_engines_adapters_and_aliases_change_while_clients_ask_on(endpoint, quantized, tmp_path):
    speller = served_model(quantized)
    base = str(quantized.original)
    first, second = (save_adapter(base, tmp_path / name, seed) for seed, name in enumerate(("first", "second")))
    plain = ModelConfig(
        model_id="plain",
        checkpoint=base,
        dtype="float32",
        max_num_seqs=4,
        kv_cache_gib=0.05,
        aliases=["gpt-4"],
        adapters=[Adapter(name="poet", path=str(first))],
    )

    def change(*models):
        asked = {"output": str(tmp_path), "port": endpoint.port, "max_waiting": 6, "max_body_bytes": 100_000}
        return update.update(UpConfig(models=list(models), **asked))

    before = text_of(endpoint, "speller")
    adaptive = speller.speculative.model_copy(update={"adaptive": True})
    rolled = speller.model_copy(update={"max_num_seqs": 3, "speculative": adaptive})
    with asking(endpoint, ["speller", "speller"]) as wrong:
        # another engine for what is asked, a model with an adapter and an alias beside it
        lines = change(rolled, plain)
        assert lines == ["model speller: another engine", "model plain: added", "max_waiting: 6"]
        assert wrong == []
        assert text_of(endpoint, "plain") == text_of(endpoint, "gpt-4")
        assert text_of(endpoint, "poet") == reference(base, first)
        table = {row[0]: row for row in status.overview()[1]}
        assert table["plain"][:5] == ["plain", "healthy", "1 running", "poet", "gpt-4"]
        assert all(cell.endswith("%") for cell in table["speller"][7:])

        # another adapter under the old name, with the same prompt in the prefix cache; one beside it; no new engine
        running = engines()
        save_adapter(base, first, seed=7)
        several = [Adapter(name="poet", path=str(first)), Adapter(name="clerk", path=str(second))]
        lines = change(rolled, plain.model_copy(update={"adapters": several, "aliases": ["gpt-5"]}))
        assert "model plain: another engine" not in lines
        assert "model plain: adapter poet: changed" in lines
        assert engines() == running
        assert text_of(endpoint, "poet") == reference(base, first)
        assert text_of(endpoint, "clerk") == reference(base, second)
        assert complete(endpoint, "gpt-4").status_code == 404
        assert wrong == []

        # what vLLM does not load changes nothing
        foreign = shutil.copytree(second, tmp_path / "foreign")
        weights = load_file(foreign / "adapter_model.safetensors")
        odd = {name.replace("q_proj", "nobody_proj"): weight for name, weight in weights.items()}
        save_file(odd, foreign / "adapter_model.safetensors")
        unfit = [*several, Adapter(name="foreign", path=str(foreign))]
        with pytest.raises(RaymillError, match="taken back: vLLM does not load the adapter foreign"):
            change(rolled, plain.model_copy(update={"adapters": unfit, "aliases": ["gpt-5"]}))
        assert text_of(endpoint, "clerk") == reference(base, second)
        assert complete(endpoint, "foreign").status_code == 404
        assert wrong == []

        # a model goes
        change(rolled)
        assert complete(endpoint, "plain").status_code == complete(endpoint, "poet").status_code == 404
        assert text_of(endpoint, "speller") == before
    assert wrong == []
    assert [model.config.model_id for model in lifecycle.current().models] == ["speller"]


@pytest.mark.faults
def test_an_engine_that_does_not_start_changes_nothing(endpoint, quantized, tmp_path):
    broken = shutil.copytree(quantized.original, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, broken / "model.safetensors")
    speller = lifecycle.current().models[0].config
    wait_for(lambda: len(engines()) == 1, 60)  # what the test before stopped has ended
    before, running = text_of(endpoint, "speller"), engines()
    with asking(endpoint, ["speller"]) as wrong:
        for models in (
            [speller.model_copy(update={"checkpoint": str(broken)})],
            [speller, speller.model_copy(update={"model_id": "second", "checkpoint": str(broken)})],
        ):
            with pytest.raises(RaymillError, match=r"taken back: model (speller|second): .*dimension size"):
                update.update(UpConfig(models=models, output=str(tmp_path / "up"), port=endpoint.port))
            assert [model.config.model_id for model in lifecycle.current().models] == ["speller"]
    assert wrong == []
    assert text_of(endpoint, "speller") == before
    wait_for(lambda: engines() == running, 60)


@pytest.mark.faults
def test_a_model_that_sleeps_is_woken_by_a_request_and_sleeps_again(endpoint, quantized, tmp_path):
    speller = lifecycle.current().models[0].config
    light = {"checkpoint": str(quantized.original), "dtype": "float32", "kv_cache_gib": 0.05}
    sleeper = ModelConfig(model_id="sleeper", replicas={"min": 0, "idle_s": 5.0}, **light)
    asked = {"output": str(tmp_path), "port": endpoint.port, "request_timeout_s": 300.0}
    wait_for(lambda: len(engines()) == 1, 60)
    awake = engines()
    update.update(UpConfig(models=[speller, sleeper], **asked))
    wait_for(lambda: engines() == awake, 120)  # it has started once, so that one which cannot start is told
    assert httpx.get(f"{endpoint.root}/ready", timeout=60).status_code == 200
    body = {"model": "sleeper", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    found = [
        httpx.post(f"{endpoint.url}/completions", json=body, headers=endpoint.bearer, timeout=300) for _ in range(2)
    ]
    assert [response.status_code for response in found] == [200, 200], found[0].text
    assert found[0].json()["choices"] == found[1].json()["choices"]
    assert len(engines()) == len(awake) + 1
    wait_for(lambda: engines() == awake, 120)
    assert text_of(endpoint, "speller")
    update.update(UpConfig(models=[speller], **asked))


@pytest.mark.slow
def test_what_takes_a_new_start_is_refused(endpoint, quantized, tmp_path):
    asked = {"models": [served_model(quantized)], "output": str(tmp_path)}
    with pytest.raises(UserError, match=f"listens on 127.0.0.1:{endpoint.port}"):
        update.update(UpConfig(port=endpoint.port - 1, **asked))
    with pytest.raises(UserError, match="http to https"):
        update.update(UpConfig(port=endpoint.port, tls_certificate="a", tls_key="b", **asked))


@pytest.mark.slow
def test_stopped_it_leaves_its_port_free_and_nothing_to_show(endpoint):
    """The last test of this package that needs the endpoint."""
    assert lifecycle.down() is True
    lifecycle.check_port(Address("127.0.0.1", endpoint.port))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", endpoint.port)) != 0
    assert not lifecycle.is_up()
    assert lifecycle.down() is False
    with pytest.raises(UserError, match="no endpoint runs here"):
        lifecycle.current()
