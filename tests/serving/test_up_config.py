import asyncio
import ssl
import subprocess

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from core import config as configs
from core.errors import UserError
from serving.endpoint import Address
from serving.listener import Listener
from serving.up_config import UpConfig


def parsed(**settings):
    return configs.parse(UpConfig, {"output": "o"} | settings, "up.yaml")


def test_one_model_stands_at_the_top_and_several_in_a_list():
    (one,) = parsed(checkpoint="m", model_id="a", max_num_seqs=3, aliases=["b"]).served
    assert (one.model_id, one.checkpoint, one.max_num_seqs, one.aliases) == ("a", "m", 3, ["b"])
    several = parsed(models=[{"model_id": "a", "checkpoint": "m"}, {"model_id": "b", "checkpoint": "n", "seed": 4}])
    assert [(model.model_id, model.seed) for model in several.served] == [("a", 0), ("b", 4)]
    assert several.input_paths() == ["m", "n"]
    adapters = [{"name": "x", "path": "p"}]
    assert parsed(checkpoint="m", adapters=adapters, formats=["q"]).input_paths() == ["m", "p", "q"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "checkpoint is missing"),
        ({"checkpoint": "m", "models": [{"checkpoint": "n"}]}, "checkpoint: with models"),
        ({"max_num_seqs": 3, "models": [{"checkpoint": "n"}]}, "max_num_seqs: with models"),
        ({"models": [{"checkpoint": "n", "replicas": {"min": 3, "max": 2}}]}, "replicas.min 3 is more than"),
        ({"models": [{"checkpoint": "n", "max_num_sqs": 1}]}, "did you mean models.0.max_num_seqs"),
        ({"checkpoint": "m", "max_adapter_rank": 10}, "max_adapter_rank"),
        ({"checkpoint": "m", "tls_key": "k"}, "TLS needs both"),
    ],
)
def test_what_makes_no_sense_is_named_in_one_line(settings, reason):
    with pytest.raises(UserError, match=reason) as raised:
        parsed(**settings)
    assert "\n" not in str(raised.value)


def test_how_many_engines_there_are_does_not_decide_what_is_answered():
    one, many = parsed(checkpoint="m"), parsed(checkpoint="m", replicas={"min": 2, "max": 5})
    assert one.identity() == many.identity()


def signed(folder, name):
    """A certificate of that name alone, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", f"/CN={name}"]
    subprocess.run(command, check=True, capture_output=True)
    return str(certificate), str(key)


def test_an_endpoint_is_known_by_its_certificate_whatever_name_stands_in_it(tmp_path):
    own, key = signed(tmp_path, "models.example.org")
    other, _ = signed(tmp_path, "else.example.org")
    app = Starlette(routes=[Route("/ready", lambda _: PlainTextResponse("yes"))])

    async def ask():
        listener = Listener(app, "127.0.0.1", 0, own, key)
        await listener.start()
        address = Address("127.0.0.1", listener.port, own)
        try:
            async with httpx.AsyncClient(verify=address.verify) as client:
                found = (await client.get(f"{address.url.removesuffix('/v1')}/ready")).text
            async with httpx.AsyncClient(verify=Address("127.0.0.1", listener.port, other).verify) as client:
                with pytest.raises(httpx.ConnectError) as refused:
                    await client.get(address.url)
        finally:
            await listener.stop(1)
        return found, refused.value

    found, refused = asyncio.run(ask())
    assert found == "yes"
    assert isinstance(refused.__cause__.__cause__, ssl.SSLCertVerificationError) or "certificate" in str(refused)
    assert Address("0.0.0.0", 80).url == "http://127.0.0.1:80/v1"
    assert Address("::1", 80).url == "http://[::1]:80/v1"
