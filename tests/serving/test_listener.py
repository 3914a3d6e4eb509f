import asyncio
import resource
import socket
import ssl
import subprocess

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from core.errors import UserError
from serving.listener import Listener
from tests.serving.conftest import free_port


def app_named(name, release=None):
    async def plain(_):
        return PlainTextResponse(name)

    async def slow(_):
        async def parts():
            yield "begun "
            await release.wait()
            yield "done"

        return StreamingResponse(parts())

    return Starlette(routes=[Route("/", plain), Route("/slow", slow)])


def test_an_answer_under_way_is_finished_and_nobody_new_is_let_in():
    async def go():
        release = asyncio.Event()
        listener = Listener(app_named("one", release), "127.0.0.1", free_port())
        await listener.start()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}") as client:
            assert listener.alive
            async with client.stream("GET", "/slow") as response:
                parts = response.aiter_text()
                assert await anext(parts) == "begun "
                stopping = asyncio.create_task(listener.stop(20))
                with pytest.raises(httpx.ConnectError):
                    for _ in range(200):
                        await asyncio.sleep(0.02)
                        async with httpx.AsyncClient() as other:
                            await other.get(f"http://127.0.0.1:{listener.port}/")
                release.set()
                assert [part async for part in parts] == ["done"]
            await stopping
            assert not listener.alive

    asyncio.run(go())


def test_what_does_not_end_is_cut_off_after_its_grace():
    async def go():
        listener = Listener(app_named("one", asyncio.Event()), "127.0.0.1", free_port())
        await listener.start()
        url = f"http://127.0.0.1:{listener.port}/slow"
        async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
            await anext(response.aiter_text())
            async with asyncio.timeout(10):
                await listener.stop(0.1)

    asyncio.run(go())


def test_the_old_and_the_new_process_of_an_update_share_the_port():
    async def go():
        port = free_port()
        old, new = Listener(app_named("old"), "127.0.0.1", port), Listener(app_named("new"), "127.0.0.1", port)
        await old.start()
        await new.start()
        await old.stop(5)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "new"
        await new.stop(5)

    asyncio.run(go())


def test_it_takes_a_finite_number_of_connections():
    async def go():
        listener = Listener(app_named("one"), "127.0.0.1", free_port(), max_connections=2)
        await listener.start()
        url = f"http://127.0.0.1:{listener.port}/"
        async with httpx.AsyncClient() as first, httpx.AsyncClient() as second, httpx.AsyncClient() as third:
            assert [(await client.get(url)).status_code for client in (first, second, third)] == [200, 200, 503]
        await listener.stop(1)
        assert 16 <= Listener(app_named("one"), "127.0.0.1", free_port())._server.config.limit_concurrency <= 2048

    asyncio.run(go())


@pytest.fixture
def files():
    """Sets the soft limit of open files; the old one comes back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connections():
    return Listener(app_named("one"), "127.0.0.1", free_port())._server.config.limit_concurrency


def test_the_usual_soft_limit_of_files_does_not_halve_the_connections(files, monkeypatch):
    files(1024)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections() == (2048 if hard == resource.RLIM_INFINITY else min(2048, hard // 2))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 3000))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert connections() == 1500, "no further than the hard limit"

    def refused(*_):
        raise OSError("not here")

    monkeypatch.setattr(resource, "setrlimit", refused)
    assert connections() == 512


def test_a_port_of_somebody_else_is_said_in_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="cannot listen on"):
            Listener(app_named("one"), "127.0.0.1", other.getsockname()[1])


def test_with_a_certificate_it_speaks_tls_alone(tmp_path):
    certificate, key = self_signed(tmp_path)

    async def go():
        listener = Listener(app_named("one"), "127.0.0.1", free_port(), str(certificate), str(key))
        await listener.start()
        url = f"https://127.0.0.1:{listener.port}/"
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(certificate))) as client:
            assert (await client.get(url)).text == "one"
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError, match="self-signed"):
                await client.get(url)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(url.replace("https", "http"))
        await listener.stop(1)

    asyncio.run(go())


def self_signed(folder):
    """A certificate of 127.0.0.1 and its key, as `openssl req -x509` writes them."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key
