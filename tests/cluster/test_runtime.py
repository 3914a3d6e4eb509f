"""A wrong address is said at once: Ray itself would try it for half a minute and end in a traceback."""

import socket
import threading

import pytest
import ray

from cluster import jobs, runtime
from core.errors import RaymillError, UserError

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def not_connected(monkeypatch, tmp_path):
    """A process without Ray, on a machine without a cluster of ours."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("cluster.local.STATE", tmp_path / "none.json")
    for name in ("RAY_ADDRESS", "RAYMILL_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_port():
    """A port that is taken but where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["nonsense", "ray://", "ray://host", "http://127.0.0.1:8265", ":6379", "host:", "a:b"]
)
def test_what_is_no_address_is_told_the_forms(not_connected, address):
    with pytest.raises(UserError, match="expected local, auto, host:port or ray://host:port"):
        runtime.connect(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "no.such.host.invalid:{}", "127.0.0.1:99999"]
)
def test_an_address_without_a_listener_is_a_users_mistake(not_connected, closed_port, address):
    address = address.format(closed_port)
    with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there .*cluster up --local"):
        runtime.connect(address)


def test_the_address_of_the_environment_is_checked_too(not_connected, closed_port, monkeypatch):
    monkeypatch.setenv(runtime.ADDRESS_VARIABLE, f"127.0.0.1:{closed_port}")
    with pytest.raises(UserError, match=str(closed_port)):
        runtime.connect()


def test_auto_is_the_cluster_that_up_started(not_connected, monkeypatch, closed_port):
    """And not one that runs inside another command on this machine."""
    cluster = runtime.local.LocalCluster(f"127.0.0.1:{closed_port}", "http://127.0.0.1:1", "/tmp/x", False)
    monkeypatch.setattr(runtime.local, "current", lambda: cluster)
    assert runtime._resolve("auto") == cluster.address
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # inside a job: that job's own cluster
    assert runtime._resolve("auto") == "auto"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "ftp://h:1/"])
def test_jobs_want_the_url_of_a_dashboard(not_connected, address):
    with pytest.raises(UserError, match=r"expected the URL of a dashboard, as http://127\.0\.0\.1:8265"):
        jobs.client(address)


def test_jobs_say_at_once_that_nobody_listens(not_connected, closed_port):
    with pytest.raises(UserError, match=f"--address http://127.0.0.1:{closed_port}: no job server answers there"):
        jobs.client(f"http://127.0.0.1:{closed_port}")


def test_a_web_server_that_is_no_dashboard_is_a_users_mistake(not_connected):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="no job server answers there"):
            jobs.client(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_cluster_jobs_say_how_to_start_one(not_connected):
    with pytest.raises(UserError, match="start one with 'raymill cluster up --local'"):
        jobs.client(None)


def test_cores_before_connecting_is_our_bug_not_a_traceback(not_connected):
    with pytest.raises(RaymillError, match="Ray is not connected"):
        runtime.cores()
