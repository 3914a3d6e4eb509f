import asyncio
import shutil
import ssl

from serving.application import Door
from serving.auth import Key, digest
from serving.certificate import Renewal
from serving.door_settings import DoorConfig
from serving.endpoint import Endpoint
from tests.serving.conftest import free_port
from tests.serving.test_listener import self_signed


def pair(folder):
    folder.mkdir()
    return self_signed(folder)


def test_a_renewed_certificate_is_served_without_an_update(tmp_path):
    certificate, key = pair(tmp_path / "old")
    renewed = pair(tmp_path / "new")
    door = DoorConfig(tls_certificate=str(certificate), tls_key=str(key))
    keys = [Key(name="a", digest=digest("rml-0123456789abcdefghij"))]
    endpoint = Endpoint(models=[], keys=keys, door=door, port=free_port())

    async def served():
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", endpoint.port))

    async def go():
        opened = Door(endpoint, [])
        await opened.reconfigure({"listing": {"models": {}, "aliases": {}}})
        await opened.check_health()
        assert await served() == certificate.read_text()
        for new, old in zip(renewed, (certificate, key), strict=True):
            shutil.copy(new, old)
        await opened.check_health()
        assert await served() == renewed[0].read_text()
        await opened._listener.stop(1)

    asyncio.run(go())


def test_half_of_a_renewal_changes_nothing(tmp_path):
    certificate, key = pair(tmp_path / "old")
    renewed = pair(tmp_path / "new")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    watched = Renewal(str(certificate), str(key))
    assert not watched.check(context)
    shutil.copy(renewed[0], certificate)
    assert not watched.check(context), "this certificate has another key"
    assert not watched.check(context)
    shutil.copy(renewed[1], key)
    assert watched.check(context)
    certificate.unlink()
    assert not watched.check(context)
