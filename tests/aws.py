"""AWS Secrets Manager by moto's server, in a process of its own, on a real socket."""

import asyncio
import importlib.util
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port, need
from tests.poll import eventually


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """moto's server; yields its address."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
        need("moto's server", how="scripts/test installs it: pip install moto flask flask-cors botocore")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            asyncio.run(eventually(lambda: _listens(port), 60, what="the listener of moto"))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An account without a secret; yields a client of the test's own."""
    import botocore.session  # type: ignore[import-untyped] # it has no types

    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "canary-aws-key",
        "AWS_DEFAULT_REGION": "ap-southeast-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST")):  # noqa: S310 - ours
        pass
    return botocore.session.get_session().create_client("secretsmanager")
