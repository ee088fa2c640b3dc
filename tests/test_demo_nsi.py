"""The NSI-like service: who may read what, and the shape of its answers."""

import asyncio
import gzip
import io
import json
import urllib.request
from collections.abc import AsyncIterator
from xml.etree import ElementTree as ET

import httpx2
import pandas as pd  # type: ignore[import-untyped] # its stubs are a package of their own
import pytest

from proxy.clock import ManualClock
from proxy.demo import Demo

ARRIVALS = "/rest/data/TOURISM,DF_ARRIVALS,1.0"
POPULATION = "/rest/data/DEMO.SDD,DSD_POP@DF_POP,1.0"
CSV = "application/vnd.sdmx.data+csv"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def demo(clock: ManualClock) -> AsyncIterator[Demo]:
    async with Demo(clock=clock) as running:
        yield running


@pytest.fixture
async def http(demo: Demo) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=demo.nsi_url, trust_env=False) as client:
        del client.headers["Accept-Encoding"]  # R and curl send `Accept: */*` and no more
        yield client


def bearer(demo: Demo, client_id: str = "dotstat-app") -> dict[str, str]:
    return {"Authorization": f"Bearer {demo.issuer.mint(client_id, 'ada')['access_token']}"}


def tree(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - the demo wrote it


def rows(answer: httpx2.Response) -> int:
    assert answer.status_code in {200, 206}, answer.text
    return len(answer.text.splitlines()) - 1


async def test_no_token_is_public_data_with_200(demo: Demo, http: httpx2.AsyncClient) -> None:
    """The trap: less data, and nothing in the answer says so."""
    anonymous = await http.get(f"{ARRIVALS}/all?format=csv")
    known = await http.get(f"{ARRIVALS}/all?format=csv", headers=bearer(demo))

    assert (rows(anonymous), rows(known)) == (145, 200)


async def test_bad_token_is_worse_than_none(demo: Demo, http: httpx2.AsyncClient, clock: ManualClock) -> None:
    """Expired, forged, of another audience: 401, where no token at all would be 200."""
    expired = bearer(demo)
    await clock.advance(300)
    async with Demo() as other:
        foreign = bearer(other)
    fields = [expired, foreign, bearer(demo, "client-tools"), {"Authorization": "Bearer x"}]
    answers = [await http.get(f"{ARRIVALS}/all", headers=one) for one in fields]

    assert [one.status_code for one in answers] == [401] * 4
    assert 'error="invalid_token"' in answers[0].headers["WWW-Authenticate"]
    assert "expired" in answers[0].headers["WWW-Authenticate"]
    assert "audience" in answers[2].headers["WWW-Authenticate"]


async def test_without_anonymous_access_no_token_is_401() -> None:
    async with Demo(allow_anonymous=False) as demo, httpx2.AsyncClient(trust_env=False) as http:
        without = await http.get(f"{demo.nsi_url}{ARRIVALS}/all")
        known = await http.get(f"{demo.nsi_url}{ARRIVALS}/all", headers=bearer(demo))
        health = await http.get(f"{demo.nsi_url}/health")

    assert (without.status_code, without.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (known.status_code, health.status_code) == (200, 200)


async def test_protected_flow_is_hidden_and_forbidden(demo: Demo, http: httpx2.AsyncClient) -> None:
    listed = (await http.get("/rest/dataflow/all/all/latest")).text
    everything = (await http.get("/rest/dataflow/all/all/latest", headers=bearer(demo))).text

    assert "DF_POP" not in listed
    assert "DSD_POP@DF_POP" in everything
    assert (await http.get(f"{POPULATION}/all")).status_code == 403
    assert (await http.get(f"{POPULATION}/all", headers=bearer(demo))).status_code == 200


async def test_service_account_reads_everything(demo: Demo, http: httpx2.AsyncClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": "dotstat-svc", "client_secret": "svc-secret"}
    token = (await http.post(f"{demo.issuer_url}/protocol/openid-connect/token", data=form)).json()["access_token"]
    answer = await http.get(f"{POPULATION}/all?format=csv", headers={"Authorization": f"Bearer {token}"})

    assert rows(answer) == 90


@pytest.mark.parametrize(
    "target",
    [
        "/rest/data/DEMO.SDD,DSD_POP@DF_POP,1.0/A.AU+NZ.",
        "/rest/data/DEMO.SDD%2CDSD_POP%40DF_POP%2C1.0/A.AU%2BNZ.",
        "/rest/data/DSD_POP@DF_POP/.AU+NZ.",
        "/rest/v2/data/dataflow/DEMO.SDD/DSD_POP@DF_POP/1.0/A.AU+NZ.*",
        "/rest/v2/data/dataflow/DEMO.SDD/DSD_POP@DF_POP/+/*.AU+NZ.*",
    ],
)
async def test_keys_survive_in_every_spelling(demo: Demo, target: str) -> None:
    """Sent as they stand by a client that changes nothing, `+`, `,`, `@` and trailing dots included."""
    host = demo.nsi_url.removeprefix("http://")
    async with httpx2.AsyncHTTPTransport() as transport:
        request = httpx2.Request(
            "GET", demo.nsi_url, headers={"Host": host, "Accept": CSV, **bearer(demo)},
            extensions={"target": target.encode()},
        )  # fmt: skip
        answer = await transport.handle_async_request(request)
        await answer.aread()

    assert rows(answer) == 36


async def test_long_key_may_come_in_the_body(demo: Demo, http: httpx2.AsyncClient) -> None:
    answer = await http.post(f"{ARRIVALS}/body?format=csv", files={"key": (None, "A.AU+NZ.HOL")}, headers=bearer(demo))

    assert rows(answer) == 16


async def test_sdmx_csv_reads_in_pandas(demo: Demo, http: httpx2.AsyncClient) -> None:
    answer = await http.get(f"{ARRIVALS}/A.AU.HOL", headers={**bearer(demo), "Accept": CSV})
    table = pd.read_csv(io.BytesIO(answer.content))

    assert list(table)[:6] == ["DATAFLOW", "FREQ", "REF_AREA", "PURPOSE", "TIME_PERIOD", "OBS_VALUE"]
    assert set(table["DATAFLOW"]) == {"TOURISM:DF_ARRIVALS(1.0)"}
    assert table["OBS_VALUE"].dtype == float
    assert list(table["TIME_PERIOD"]) == list(range(2016, 2024))


async def test_csv_variants(http: httpx2.AsyncClient) -> None:
    labelled = await http.get(f"{ARRIVALS}/A.AU.HOL?format=csvfilewithlabels", headers={"Accept-Language": "fr"})
    second = await http.get(f"{ARRIVALS}/A.AU.HOL", headers={"Accept": f"{CSV};version=2.0.0"})

    assert labelled.text.splitlines()[1].startswith(
        "TOURISM:DF_ARRIVALS(1.0): Arrivées internationales selon le motif,A: Annuelle,AU: Australie,HOL: Vacances,"
    )
    assert labelled.headers["Content-Disposition"] == (
        'attachment; filename="TOURISM,DF_ARRIVALS,1.0,filtered,2025-06-15 15-06-40.csv"'
    )
    assert second.text.startswith("STRUCTURE,STRUCTURE_ID,ACTION,FREQ")
    assert second.text.splitlines()[1].startswith("dataflow,TOURISM:DF_ARRIVALS(1.0),I,A,AU,HOL,2016,")


async def test_language_changes_separators_only_where_switched_on(http: httpx2.AsyncClient) -> None:
    fields = {"Accept": CSV, "Accept-Language": "fr-FR"}
    async with Demo(culture_separators=True) as demo:
        answer = await http.get(f"{demo.nsi_url}{ARRIVALS}/A.AU.HOL", headers=fields)
    table = pd.read_csv(io.BytesIO(answer.content), sep=";", decimal=",")

    assert table["OBS_VALUE"].dtype == float
    assert (await http.get(f"{ARRIVALS}/A.AU.HOL", headers=fields)).text.startswith("DATAFLOW,FREQ")


async def test_any_type_is_generic_xml(http: httpx2.AsyncClient) -> None:
    data = await http.get(f"{ARRIVALS}/A.AU.HOL")
    flow = await http.get("/rest/dataflow/TOURISM/DF_ARRIVALS/1.0?references=all")

    assert data.headers["Content-Type"] == "application/vnd.sdmx.genericdata+xml; version=2.1; charset=utf-8"
    assert len(tree(data.text).findall(".//{*}Obs")) == 7
    assert flow.headers["Content-Type"] == "application/vnd.sdmx.structure+xml; version=2.1; charset=utf-8"
    root = tree(flow.text)
    assert [one.get("id") for one in root.findall(".//{*}Dimension")] == ["FREQ", "REF_AREA", "PURPOSE"]
    assert {one.get("id") for one in root.findall(".//{*}Codelist")} >= {"CL_AREA", "CL_PURPOSE"}


async def test_json_and_specific_xml_hold_the_same_numbers(http: httpx2.AsyncClient) -> None:
    message = (await http.get(f"{ARRIVALS}/A.AU.HOL?format=jsondata")).json()
    xml = (await http.get(f"{ARRIVALS}/A.AU.HOL?format=structurespecificdata")).text
    values = [one[0] for one in message["data"]["dataSets"][0]["observations"].values()]

    assert len(values) == 7
    assert values == [float(str(one.get("OBS_VALUE"))) for one in tree(xml).iter("Obs")]


async def test_structures_come_as_json_too(http: httpx2.AsyncClient) -> None:
    fields = {"Accept": "application/vnd.sdmx.structure+json"}
    answer = await http.get("/rest/datastructure/TOURISM/DSD_ARRIVALS?references=children", headers=fields)
    codes = await http.get("/rest/codelist/TOURISM/CL_AREA", headers=fields)

    assert answer.json()["data"]["dataStructures"][0]["dimensions"] == ["FREQ", "REF_AREA", "PURPOSE", "TIME_PERIOD"]
    assert "CL_AREA" in [one["id"] for one in codes.json()["data"]["codelists"]]


@pytest.mark.parametrize("field", ["Range", "X-Range"])
async def test_row_range_is_206(demo: Demo, http: httpx2.AsyncClient, field: str) -> None:
    answer = await http.get(f"{ARRIVALS}/all?format=csv", headers={**bearer(demo), field: "values=10-19"})
    past = await http.get(f"{ARRIVALS}/all?format=csv", headers={field: "values=900-999"})

    assert (answer.status_code, rows(answer)) == (206, 10)
    assert answer.headers["Content-Range"] == "values 10-19/200"
    assert (past.status_code, past.headers["Content-Range"]) == (416, "values */145")


async def test_byte_range_is_ignored(http: httpx2.AsyncClient) -> None:
    answer = await http.get(f"{ARRIVALS}/all?format=csv", headers={"Range": "bytes=0-99"})

    assert (answer.status_code, rows(answer), answer.headers["Accept-Ranges"]) == (200, 145, "values")


async def test_answer_is_chunked_and_carries_nsis_fields(http: httpx2.AsyncClient) -> None:
    answer = await http.get(f"{ARRIVALS}/all")

    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    assert "Content-Encoding" not in answer.headers
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert answer.headers["Set-Cookie"].startswith("demo-affinity=")


def _raw(url: str) -> tuple[str | None, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as answer:  # noqa: S310
        return answer.headers["Content-Encoding"], answer.read()


async def test_gzip_for_those_who_ask(demo: Demo, http: httpx2.AsyncClient) -> None:
    target = f"{ARRIVALS}/all?format=csv"
    coding, body = await asyncio.to_thread(_raw, demo.nsi_url + target)

    assert coding == "gzip"
    assert gzip.decompress(body).decode() == (await http.get(target)).text


async def test_errors_have_nsis_statuses(http: httpx2.AsyncClient) -> None:
    targets = [
        f"{ARRIVALS}/A.AU",
        f"{ARRIVALS}/A.XX.HOL",
        "/rest/data/NOPE/all",
        "/rest/dataflow/NOPE",
        f"{ARRIVALS}/all?format=parquet",
        "/",
    ]
    answers = [await http.get(target) for target in targets]
    post = await http.post(f"{ARRIVALS}/all")

    assert [one.status_code for one in answers] == [422, 204, 404, 404, 406, 404]
    assert (answers[1].content, "Content-Length" in answers[1].headers) == (b"", False)
    assert (post.status_code, post.headers["Allow"]) == (405, "GET, HEAD")


async def test_health_names_a_version(http: httpx2.AsyncClient) -> None:
    assert json.loads((await http.get("/health")).text)["service"]["details"]["version"]
