"""The demo as a whole: its sockets, its configuration, its end."""

import asyncio
import logging
import signal
from pathlib import Path

import httpx2
import pytest

from proxy.config import load
from proxy.demo import PARTS, Demo
from tests.conftest import free_port


async def test_every_part_answers_on_a_port_of_its_own() -> None:
    async with Demo() as demo, httpx2.AsyncClient(trust_env=False) as http:
        urls = [demo.issuer_url, f"{demo.data_url}/", f"{demo.nsi_url}/health", f"{demo.transfer_url}/health"]
        answers = [await http.get(url) for url in urls]

    assert [one.status_code for one in answers] == [200] * 4
    assert len({one.url.port for one in answers}) == 4
    assert all("Date" in one.headers for one in answers)


async def test_ports_may_be_chosen_and_a_taken_one_is_said() -> None:
    port = free_port()
    async with Demo(ports={"issuer": port}) as demo:
        with pytest.raises(OSError):
            Demo(ports={"issuer": port})

    assert demo.issuer_url == f"http://127.0.0.1:{port}/auth/realms/demo"


async def test_end_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """No task, no socket and no log line is left, even by an answer that was running."""
    before = asyncio.all_tasks()
    caplog.set_level(logging.DEBUG, "uvicorn")
    caplog.set_level(logging.DEBUG, "proxy.demo")
    handlers = signal.getsignal(signal.SIGINT)
    async with httpx2.AsyncClient(trust_env=False) as http:
        async with Demo(faults=True) as demo:
            running = await http.send(http.build_request("GET", f"{demo.data_url}/demo/bytes/500000000"), stream=True)
        with pytest.raises(httpx2.TransportError):
            await running.aread()
        with pytest.raises(httpx2.ConnectError):
            await http.get(demo.issuer_url)

    assert asyncio.all_tasks() == before
    assert signal.getsignal(signal.SIGINT) is handlers
    assert [one for one in caplog.records if one.name.startswith(("uvicorn", "proxy.demo"))] == []


COVER = "datasets/10378-1-1001/coral-cover.csv"


@pytest.mark.parametrize("part", PARTS)
async def test_part_can_go_and_come_back(part: str) -> None:
    async with Demo() as demo, httpx2.AsyncClient(trust_env=False) as http:
        urls = {
            "issuer": demo.issuer_url,
            "data": f"{demo.data_url}/",
            "storage": f"{demo.storage_url}/{demo.data.store.presign(COVER, 60)}",
            "nsi": f"{demo.nsi_url}/health",
            "transfer": f"{demo.transfer_url}/health",
        }
        await http.get(urls[part])
        await demo.stop(part)
        with pytest.raises(httpx2.TransportError):
            await http.get(urls[part])
        await demo.start(part)
        answer = await http.get(urls[part])

    assert answer.status_code == 200


async def test_sign_ins_outlive_an_outage_of_the_issuer() -> None:
    async with Demo() as demo, httpx2.AsyncClient(trust_env=False) as http:
        token = demo.issuer.mint("client-tools", "ada")["refresh_token"]
        await demo.stop("issuer")
        await demo.start("issuer")
        form = {"grant_type": "refresh_token", "client_id": "client-tools", "refresh_token": token}
        answer = await http.post(f"{demo.issuer_url}/protocol/openid-connect/token", data=form)

    assert answer.status_code == 200


async def test_configuration_is_one_that_a_proxy_takes(tmp_path: Path) -> None:
    """Every mount of both presets stands on the demo, and nothing is to be added."""
    async with Demo() as demo:
        configuration = load(environ={}, overrides=demo.configuration(port=0, store=tmp_path / "state"))
    upstreams = {one.name: one.url for one in configuration.upstreams}

    assert set(configuration.identities) == {"provena", "dotstat"}
    assert upstreams["provena_data"] == demo.data_url
    assert upstreams["provena_registry"] == f"{demo.data_url}/services/registry"
    assert upstreams["dotstat_rest"] == f"{demo.nsi_url}/rest"
    assert upstreams["dotstat_transfer"] == demo.transfer_url
    assert configuration.store.kind == "file"
