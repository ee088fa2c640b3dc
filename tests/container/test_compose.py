"""docker-compose.yml: a workflow gets data beside the proxy and holds no secret; sign-ins outlive the containers."""

import asyncio
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.container.conftest import ROOT
from tests.container.engine import HERE, Project
from tests.poll import eventually

pytestmark = pytest.mark.container

OFFICE = {
    "DOTSTAT_ISSUER": "http://office:9000/auth/realms/demo",
    "DOTSTAT_NSI": "http://office:9001",
    "DATA_URL": "http://proxy:8400/dotstat/csv/data/DEMO.SDD,DSD_POP@DF_POP,1.0/all",
}
BY_SERVICE = OFFICE | {"DOTSTAT_CLIENT_ID": "dotstat-svc", "DOTSTAT_GRANT": "client_credentials"}
BY_PERSON = OFFICE | {"DOTSTAT_CLIENT_ID": "desktop", "DOTSTAT_GRANT": "device_code"}


async def test_demo_profile_gives_a_workflow_data_without_an_account(project: Callable[..., Project]) -> None:
    demo = project(HERE / "office.yml")
    demo("--profile", "demo", "up", "-d", "--no-build", "demo")
    await demo.engine.healthy(demo.container("demo"))

    workflow = demo.run("--profile", "demo", "run", "--rm", "--no-deps", "-T", "demo-workflow")

    assert workflow.status == 0, workflow.errors
    assert re.search(r"^\d+ rows of DATAFLOW, ", workflow.output, re.MULTILINE), workflow.output


async def test_demo_is_published_on_this_machine_alone(project: Callable[..., Project]) -> None:
    demo = project(HERE / "office.yml")
    demo("--profile", "demo", "up", "-d", "--no-build", "demo")
    await demo.engine.healthy(demo.container("demo"))

    published = demo.engine.podman("port", demo.container("demo")).split()

    assert published[-1] == f"127.0.0.1:{demo.environ['DEMO_PORT']}"
    assert _get(int(demo.environ["DEMO_PORT"]), "/-/live")[0] == 200


async def test_workflow_reads_with_a_secret_that_only_the_proxy_holds(
    project: Callable[..., Project], tmp_path: Path
) -> None:
    secret = tmp_path / "client_secret"
    secret.write_text("svc-secret\n")
    shutil.chown(secret, 10001, 10001)  # compose hands the file over with its owner and mode
    secret.chmod(0o400)
    office = project(HERE / "office.yml", DOTSTAT_CLIENT_SECRET_FILE=str(secret), **BY_SERVICE)
    office("up", "-d", "--no-build", "office", "proxy")
    await office.engine.healthy(office.container("proxy"))

    workflow = office.run("run", "--rm", "--no-deps", "-T", "workflow")

    assert workflow.status == 0, workflow.errors
    assert re.search(r"^\d+ rows of DATAFLOW, ", workflow.output, re.MULTILINE), workflow.output
    shown = office.engine.podman("exec", office.container("proxy"), "bearerproxy", "config", "show")
    assert "client_secret" in shown
    assert "svc-secret" not in shown
    inspected = office.engine.podman("inspect", office.container("proxy"))
    assert "svc-secret" not in inspected


async def test_sign_in_by_exec_serves_the_workflow_and_outlives_the_containers(project: Callable[..., Project]) -> None:
    office = project(HERE / "office.yml", **BY_PERSON)
    office("up", "-d", "--no-build", "office", "proxy")
    await office.engine.healthy(office.container("proxy"))

    before = office.run("run", "--rm", "--no-deps", "-T", "workflow")
    assert before.status == 1
    assert "bearerproxy login dotstat" in before.errors + before.output

    await _sign_in(office)
    await eventually(lambda: office.run("run", "--rm", "--no-deps", "-T", "workflow"), 20, what="rows")

    office("down", "proxy")  # the issuer stays: it forgets its sign-ins when it ends
    office("up", "-d", "--no-build", "proxy")
    await office.engine.healthy(office.container("proxy"))
    assert office.run("run", "--rm", "--no-deps", "-T", "workflow")

    office("down")
    office("up", "-d", "--no-build", "office", "proxy")
    await office.engine.healthy(office.container("proxy"))
    proxy = office.container("proxy")
    [identity] = json.loads(office.engine.podman("exec", proxy, "bearerproxy", "status", "--json"))["identities"]
    assert (identity["name"], identity["username"]) == ("dotstat", "ada")

    office("down", "--volumes")
    assert not office.engine.podman("volume", "ls", "--quiet").strip()


async def test_proxy_is_published_on_this_machine_alone_under_any_port(project: Callable[..., Project]) -> None:
    office = project(HERE / "office.yml", **BY_PERSON)
    office("up", "-d", "--no-build", "office", "proxy")
    await office.engine.healthy(office.container("proxy"))
    port = int(office.environ["PROXY_PORT"])

    assert office.engine.podman("port", office.container("proxy")).split()[-1] == f"127.0.0.1:{port}"
    assert _get(port, "/-/live")[0] == 200
    assert "sign-in-required" in _get(port, "/dotstat/rest/dataflow")[1]


async def test_compose_file_publishes_on_loopback_only_and_gives_up_every_right() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    assert re.findall(r"ports: \[\"(.*?):", text) == ["127.0.0.1"] * 2
    assert text.count("cap_drop: [ALL]") == text.count("read_only: true") == text.count("no-new-privileges") == 2


async def _sign_in(project: Project) -> None:
    """Do what a person does: run the command, read the code off the terminal, allow it on the issuer's page."""
    argv = ["podman", "exec", project.container("proxy"), "bearerproxy", "login", "dotstat", "--no-browser"]
    shown = project.folder / "terminal"
    with shown.open("wb") as terminal:
        login = await asyncio.create_subprocess_exec(
            *argv, env=dict(project.engine.environ), stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal
        )
    try:
        codes = await eventually(lambda: re.findall(r"\b[A-Z]{4}-[A-Z]{4}\b", shown.read_text()), 20, what="a code")
        form = {"user_code": codes[0], "username": "ada", "password": "reef", "decision": "allow"}
        status, page = _get(int(project.environ["OFFICE_PORT"]), "/auth/realms/demo/device", form)
        assert status == 200, page
        async with asyncio.timeout(20):
            assert await login.wait() == 0, shown.read_text()
        assert "ada" in shown.read_text()
    finally:
        if login.returncode is None:
            login.kill()
            await login.wait()


def _get(port: int, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        if form is None:
            connection.request("GET", path, headers={"Host": f"localhost:{port}"})
        else:
            fields = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", path, urlencode(form), fields)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
