"""The image: small rights, no secret in it, and well before anybody has signed in."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.container.conftest import PLANTED
from tests.container.engine import Engine

pytestmark = pytest.mark.container

NAME = "bp"

_COMPILED = """
import json, os, sys
import httpcore2, {}, proxy.config.loading
print(json.dumps([
    name for name, one in sys.modules.items()
    if (place := getattr(one, "__cached__", None)) and not os.path.exists(place)
]))
"""
"""Print what a command imports that has no bytecode."""


@pytest.fixture(scope="module")
def port(engine: Engine, image: str) -> Iterator[int]:
    """A container of the image as operators run it; nobody has signed in. Yields its published port."""
    port = free_port()
    engine.podman(
        "run", "--detach", "--name", NAME, "--network", "bridge", "--publish", f"127.0.0.1:{port}:8400",
        "--cap-drop", "all", "--security-opt", "no-new-privileges", "--read-only", "--read-only-tmpfs=false",
        "--volume", "sign-ins:/var/lib/bearerproxy",
        "--env", "BEARERPROXY_PROVENA__DOMAIN=provena.example", "--env", "BEARERPROXY_PROVENA__REALM=demo",
        image,
    )  # fmt: skip
    yield port
    engine.clear()


@pytest.fixture
async def served(engine: Engine, port: int) -> int:
    """The published port of a proxy that is up by its own word."""
    await engine.healthy(NAME)
    return port


async def test_starts_without_a_sign_in_and_is_alive_on_the_published_port(served: int) -> None:
    assert _get(served, "/-/live")[0] == 200


async def test_says_on_the_published_port_what_to_run_for_the_first_sign_in(served: int) -> None:
    status, body = _get(served, "/provena/data/")

    assert status == 503
    problem = json.loads(body)
    assert problem["type"].endswith("sign-in-required")
    assert "bearerproxy login provena" in body


async def test_is_not_ready_before_the_sign_in_though_it_is_healthy(engine: Engine, served: int) -> None:
    assert engine.is_healthy(NAME)
    assert _get(served, "/-/ready")[0] == 503
    assert engine.run("podman", "exec", NAME, "bearerproxy", "health", "--ready").status == 1


async def test_refuses_names_that_are_not_its_own_though_it_listens_everywhere(served: int) -> None:
    assert _get(served, "/-/live", host="evil.example")[0] == 403


async def test_runs_as_a_user_without_rights(engine: Engine, served: int) -> None:
    lines = engine.podman("exec", NAME, "cat", "/proc/1/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}

    assert status["Uid"] == ["10001"] * 4
    assert status["Gid"] == ["10001"] * 4
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == ["0000000000000000"]
    assert status["NoNewPrivs"] == ["1"]


async def test_can_write_to_its_store_and_nowhere_else(engine: Engine, served: int) -> None:
    for refused in ("/opt/bearerproxy/x", "/etc/bearerproxy/x", "/tmp/x"):  # noqa: S108 - a path in the container
        assert not engine.run("podman", "exec", NAME, "touch", refused)

    engine.podman("exec", NAME, "touch", "/var/lib/bearerproxy/x")
    assert engine.podman("exec", NAME, "stat", "-c", "%a %u", "/var/lib/bearerproxy").split() == ["700", "10001"]


async def test_log_is_json_and_warns_that_the_network_is_trusted(engine: Engine, served: int) -> None:
    lines = [json.loads(line) for line in engine.log(NAME).splitlines()]

    assert any("trusted_network" in json.dumps(line) for line in lines)


async def test_term_ends_it_at_once_with_status_0(engine: Engine, image: str) -> None:
    engine.podman(
        "run", "--detach", "--name", "ending", "--network", "none",
        "--env", "BEARERPROXY_PROVENA__DOMAIN=provena.example", "--env", "BEARERPROXY_PROVENA__REALM=demo",
        image,
    )  # fmt: skip
    await engine.healthy("ending")
    started = time.monotonic()
    engine.podman("stop", "--time", "20", "ending")

    assert time.monotonic() - started < 5
    assert engine.podman("inspect", "--format", "{{.State.ExitCode}}", "ending").strip() == "0"
    engine.podman("rm", "--volumes", "ending")


async def test_demo_is_healthy_by_the_same_word(engine: Engine, image: str) -> None:
    """The bare `run … demo`: the image's HEALTHCHECK asks the port, not the identities that it lacks."""
    engine.podman("run", "--detach", "--name", "touring", "--network", "none", image, "demo")
    await engine.healthy("touring")
    engine.podman("rm", "--force", "--time", "5", "--volumes", "touring")


@pytest.mark.parametrize("imported", ["proxy.cli.health", "proxy.cli.serving"])
def test_neither_a_start_nor_a_health_check_compiles_anything(engine: Engine, image: str, imported: str) -> None:
    """The container's user may write no bytecode, and the check comes every 15 seconds."""
    program = _COMPILED.format(imported)
    found = engine.podman("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", program)

    assert json.loads(found) == []


async def test_container_leaves_no_volume_behind(engine: Engine, image: str) -> None:
    before = engine.podman("volume", "ls", "--quiet")
    engine.podman("run", "--rm", "--network", "none", image, "--version")

    assert engine.podman("volume", "ls", "--quiet") == before


async def test_mistake_in_the_configuration_ends_it_with_status_2_and_names_the_variable(
    engine: Engine, image: str
) -> None:
    done = engine.run("podman", "run", "--rm", "--network", "none", "--env", "BEARERPROXY_SERVER__PROT=1", image)

    assert done.status == 2
    assert "BEARERPROXY_SERVER__PROT" in done.errors
    assert "Traceback" not in done.errors


async def test_no_layer_and_no_history_holds_a_secret_of_the_folder_it_was_built_in(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    archive = tmp_path / "image.tar"
    engine.podman("save", "--quiet", "--format", "docker-archive", "--output", str(archive), image)

    content = archive.read_bytes()
    assert b"opt/bearerproxy/bin/bearerproxy" in content  # the search sees file names and contents
    assert PLANTED.encode() not in content
    archive.unlink()


async def test_image_says_how_it_is_run(engine: Engine, image: str) -> None:
    [said] = json.loads(engine.podman("image", "inspect", image))

    assert said["User"] == "10001:10001"
    assert said["Config"]["Entrypoint"] == ["bearerproxy"]
    assert said["Config"]["Cmd"] == ["serve"]
    assert said["Config"]["ExposedPorts"] == {"8400/tcp": {}}
    assert said["Config"].get("Volumes") is None
    assert said["Healthcheck"]["Test"] == ["CMD", "bearerproxy", "health"]
    assert said["Labels"]["org.opencontainers.image.title"] == "bearerproxy"


def _get(port: int, path: str, *, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host or f"localhost:{port}"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
