"""The Transfer-like service: uploads are counted and hashed, imports go on by being polled."""

import hashlib
import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from proxy.demo import Demo
from proxy.demo.faults import seeded_bytes


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with Demo() as running:
        yield running


@pytest.fixture
async def http(demo: Demo) -> AsyncIterator[httpx2.AsyncClient]:
    token = demo.issuer.mint("dotstat-app", "ada")["access_token"]
    fields = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=demo.transfer_url, headers=fields, trust_env=False) as client:
        yield client


async def test_upload_is_hashed_and_then_polled_to_its_end(demo: Demo, http: httpx2.AsyncClient) -> None:
    content = b"".join(seeded_bytes(3_000_001))
    answer = await http.post(
        "/import/sdmxFile", data={"dataspace": "design"}, files={"file": ("arrivals.csv", content, "text/csv")}
    )
    found = re.search(r"with ID (\d+) was successfully", answer.json()["message"])
    assert found is not None
    form = {"dataspace": (None, "design"), "id": (None, found[1])}
    polls = [(await http.post("/status/request", files=form)).json() for _ in range(4)]

    assert answer.json()["success"] is True
    assert [one["executionStatus"] for one in polls] == ["Queued", "InProgress", "Completed", "Completed"]
    assert [one["outcome"] for one in polls] == [None, None, "Success", "Success"]
    assert hashlib.sha256(content).hexdigest() in polls[0]["logs"][0]["message"]
    assert [(one.size, one.filename, one.username) for one in demo.transfer.imports] == [
        (3_000_001, "arrivals.csv", "ada@demo.example")
    ]


async def test_token_is_always_needed(demo: Demo) -> None:
    async with httpx2.AsyncClient(base_url=demo.transfer_url, trust_env=False) as http:
        answers = [
            await http.post(path, data={"dataspace": "design", "id": "1"}, headers=fields)
            for path in ("/import/sdmxFile", "/status/request")
            for fields in ({}, {"Authorization": "Bearer x"})
        ]
        health = await http.get("/health")

    assert [one.status_code for one in answers] == [401] * 4
    assert health.status_code == 200


async def test_import_may_name_a_url_instead_of_a_file(demo: Demo, http: httpx2.AsyncClient) -> None:
    form = {"dataspace": (None, "design"), "filepath": (None, "http://127.0.0.1:8400/dotstat/rest/data/X")}
    answer = await http.post("/import/sdmxFile", files=form)

    assert answer.json()["success"] is True
    assert demo.transfer.imports[0].filename == "http://127.0.0.1:8400/dotstat/rest/data/X"


async def test_incomplete_forms_are_refused(demo: Demo, http: httpx2.AsyncClient) -> None:
    sdmx = ("a.csv", b"x", "application/vnd.sdmx.data+csv")
    answers = [
        await http.post("/import/sdmxFile", files={"file": ("a.csv", b"x", "text/csv")}),
        await http.post("/import/sdmxFile", files={"dataspace": (None, "design")}),
        await http.post("/import/sdmxFile", data={"dataspace": "design"}, files={"file": sdmx}),
        await http.post("/import/sdmxFile", data={"dataspace": "design"}),
        await http.post(
            "/import/sdmxFile", content=b"--b\r\n", headers={"Content-Type": "multipart/form-data; boundary=b"}
        ),
    ]

    assert [one.status_code for one in answers] == [400] * 5
    assert demo.transfer.imports == []


async def test_broken_upload_leaves_nothing(demo: Demo, http: httpx2.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n12345'
        demo.drop_connections("transfer")
        yield b"6789\r\n--b--\r\n"

    fields = {"Content-Type": "multipart/form-data; boundary=b"}
    with pytest.raises(httpx2.TransportError):
        await http.post("/import/sdmxFile", content=body(), headers=fields)

    assert demo.transfer.imports == []


async def test_status_of_another_dataspace_is_not_found(http: httpx2.AsyncClient) -> None:
    await http.post("/import/sdmxFile", files={"dataspace": (None, "design"), "filepath": (None, "x")})
    answer = await http.post("/status/request", files={"dataspace": (None, "release"), "id": (None, "1")})

    assert answer.status_code == 404
