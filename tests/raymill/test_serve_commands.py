"""`serve up` with `keep`: the Ray that is started for an endpoint goes with it, and when it never came to be."""

import os
import socket
import tempfile

import psutil
import pytest
import yaml

pytestmark = pytest.mark.faults


@pytest.fixture
def short_folder():
    """Ray's unix sockets lie below it: their paths must stay under 108 characters."""
    with tempfile.TemporaryDirectory(prefix="rm-", ignore_cleanup_errors=True) as folder:
        yield folder


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_wrong_setting_leaves_no_ray_behind(raymill, tmp_path, short_folder):
    if listens(6379) or listens(8265):
        pytest.skip("a cluster of somebody else holds the ports of a local cluster")
    (tmp_path / "up.yaml").write_text(yaml.safe_dump({"checkpoint": "absent", "output": "run", "keep": True}))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TMPDIR": short_folder}
    done = raymill("serve", "up", "up.yaml", env=environment, timeout=240)
    assert done.returncode == 2
    assert "absent" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert os.listdir(short_folder), "no Ray was started, so nothing was tested"
    assert not (tmp_path / "raymill" / "cluster.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if short_folder in " ".join(p.info["cmdline"] or [])]
