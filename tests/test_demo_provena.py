"""The data API: who is let in with which words, and the routes that scripts use."""

import io
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pandas as pd  # type: ignore[import-untyped] # its stubs are a package of their own
import pytest

from proxy.clock import ManualClock
from proxy.demo import Demo
from proxy.demo.faults import seeded_bytes

CSV = "/demo/coral-cover.csv"
GENERAL = "/check-access/check-general-access"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def demo(clock: ManualClock) -> AsyncIterator[Demo]:
    async with Demo(clock=clock, faults=True) as running:
        yield running


@pytest.fixture
async def http(demo: Demo) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=demo.data_url, trust_env=False) as client:
        yield client


def bearer(demo: Demo, username: str = "ada", client_id: str = "client-tools", scope: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {demo.issuer.mint(client_id, username, scope)['access_token']}"}


async def refusal(http: httpx2.AsyncClient, fields: Any, path: str = CSV) -> tuple[int, str, str | None]:
    answer = await http.get(path, headers=fields)
    return answer.status_code, answer.json()["detail"], answer.headers.get("WWW-Authenticate")


async def test_health_is_for_everybody_and_not_for_head(http: httpx2.AsyncClient) -> None:
    health = await http.get("/")

    assert health.json() == {"message": "Health check successful."}
    assert (await http.head("/")).status_code == 405
    assert "/registry/items/list" in (await http.get("/openapi.json")).json()["paths"]
    assert (await http.get("/docs")).status_code == 200


async def test_data_arrives_with_a_good_token(demo: Demo, http: httpx2.AsyncClient) -> None:
    answer = await http.get(CSV, headers=bearer(demo))
    table = pd.read_csv(io.BytesIO(answer.content))

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert (len(table), table["reef"].nunique()) == (100, 10)
    assert table["hard_coral_percent"].between(0, 60).all()


@pytest.mark.parametrize("fields", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}])
async def test_no_token_is_not_authenticated(http: httpx2.AsyncClient, fields: dict[str, str]) -> None:
    assert await refusal(http, fields) == (401, "Not authenticated", "Bearer")


async def test_expired_and_forged_tokens_get_the_same_words(
    demo: Demo, http: httpx2.AsyncClient, clock: ManualClock
) -> None:
    """The second after its last, without leeway."""
    fields = bearer(demo)
    await clock.advance(299.9)
    before = await http.get(CSV, headers=fields)
    await clock.advance(0.1)

    assert before.status_code == 200
    assert await refusal(http, fields) == (401, "Could not validate credentials", "Bearer")
    assert await refusal(http, {"Authorization": "Bearer a.b.c"}) == (401, "Could not validate credentials", "Bearer")


async def test_token_of_another_issuer_is_refused(demo: Demo, http: httpx2.AsyncClient) -> None:
    async with Demo() as other:
        fields = bearer(other)

    assert await refusal(http, fields) == (401, "Could not validate credentials", "Bearer")


async def test_refresh_token_is_no_access_token(demo: Demo, http: httpx2.AsyncClient) -> None:
    token = demo.issuer.mint("client-tools", "ada")["refresh_token"]

    assert await refusal(http, {"Authorization": f"Bearer {token}"}) == (
        401,
        "Could not validate credentials",
        "Bearer",
    )


async def test_token_without_roles_has_incorrect_structure(demo: Demo, http: httpx2.AsyncClient) -> None:
    """What `automated-access` gets without the scope `roles`."""
    bare = bearer(demo, client_id="automated-access", scope="offline_access")
    whole = bearer(demo, client_id="automated-access", scope="roles offline_access")

    assert await refusal(http, bare) == (401, "Token had incorrect structure.", "Bearer")
    assert (await http.get(CSV, headers=whole)).status_code == 200


async def test_missing_role_and_missing_permission_are_401(demo: Demo, http: httpx2.AsyncClient) -> None:
    role = await refusal(http, bearer(demo, "ben"))
    permission = await refusal(http, bearer(demo), "/registry/items/fetch-dataset?handle_id=10378.1/1004")

    assert role[0] == permission[0] == 401
    assert role[1].endswith("you don't have the correct role.")
    assert permission[1:] == ("You do not have sufficient permissions to read from this dataset!", None)


async def test_first_of_two_tokens_counts(demo: Demo, http: httpx2.AsyncClient) -> None:
    good = bearer(demo)["Authorization"]
    good_first = [("Authorization", good), ("Authorization", "Bearer no")]

    assert (await http.get(CSV, headers=good_first)).status_code == 200
    assert (await refusal(http, good_first[::-1]))[1] == "Could not validate credentials"


async def test_audience_is_checked_only_if_asked_for(demo: Demo, http: httpx2.AsyncClient) -> None:
    fields = bearer(demo, client_id="dotstat-app")
    async with Demo(data_audience="provena-api") as strict, httpx2.AsyncClient(trust_env=False) as client:
        refused = await client.get(f"{strict.data_url}{CSV}", headers=bearer(strict, client_id="dotstat-app"))
        served = await client.get(f"{strict.data_url}{CSV}", headers=bearer(strict))

    assert (await http.get(CSV, headers=fields)).status_code == 200
    assert (refused.status_code, served.status_code) == (401, 200)


async def test_access_check_hands_out_the_raw_token(demo: Demo, http: httpx2.AsyncClient) -> None:
    """The danger is real, so that a proxy's `deny` can be seen to matter."""
    fields = bearer(demo)
    answer = await http.get(GENERAL, headers=fields)

    assert fields["Authorization"] == f"Bearer {answer.json()['access_token']}"


async def test_unknown_key_is_fetched_once_a_minute(demo: Demo, http: httpx2.AsyncClient, clock: ManualClock) -> None:
    await http.get(CSV, headers=bearer(demo))
    demo.issuer.rotate_key()
    fields = bearer(demo)
    first = [(await http.get(CSV, headers=fields)).status_code for _ in range(3)]
    calls = demo.issuer.calls["certs", ""]
    await clock.advance(60)
    second = [(await http.get(CSV, headers=fields)).status_code for _ in range(3)]

    assert (first, calls) == ([401] * 3, 1)
    assert (second, demo.issuer.calls["certs", ""]) == ([200] * 3, 2)


async def test_fetching_a_dataset_takes_the_handle_either_way(demo: Demo, http: httpx2.AsyncClient) -> None:
    fields = bearer(demo)
    path = "/registry/items/fetch-dataset?handle_id="
    plain = (await http.get(f"{path}10378.1/1001", headers=fields)).json()
    encoded = (await http.get(f"{path}10378.1%2F1001", headers=fields)).json()
    unknown = await http.get(f"{path}10378.1/1", headers=fields)

    assert plain == encoded
    assert plain["item"]["s3"]["path"] == "datasets/10378-1-1001/"
    assert (unknown.status_code, list(unknown.json())) == (400, ["detail"])


async def test_items_have_what_the_models_of_provenas_clients_require(demo: Demo, http: httpx2.AsyncClient) -> None:
    """Their pydantic models (ItemDataset of provena-interfaces-v2) refuse an item in which one of these is missing."""
    asked = {"page_size": 100}
    items = (await http.post("/registry/items/list", json=asked, headers=bearer(demo))).json()["items"]

    assert items
    for item in items:
        form = item["collection_format"]
        assert form.keys() == {"associations", "approvals", "dataset_info"}
        assert form["approvals"].keys() == {
            "ethics_registration", "ethics_access", "indigenous_knowledge", "export_controls",
        }  # fmt: skip
        info = form["dataset_info"]
        required = ["name", "description", "access_info", "publisher_id", "created_date", "published_date", "license"]
        assert [key for key in required if info.get(key) is None] == []
        assert info["publisher_id"] == form["associations"]["organisation_id"]


async def test_list_goes_on_by_the_key_in_the_body(demo: Demo, http: httpx2.AsyncClient) -> None:
    fields, ids, key = bearer(demo), [], None
    for _ in range(3):
        asked = {"page_size": 2, "pagination_key": key}
        answer = (await http.post("/registry/items/list", headers=fields, json=asked)).json()
        ids.append([item["id"] for item in answer["items"]])
        key = answer["pagination_key"]
        if key is None:
            break

    assert ids == [["10378.1/1001", "10378.1/1002"], ["10378.1/1003", "10378.1/1004"], ["10378.1/1005"]]


async def test_slash_redirect_is_absolute_and_from_host(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/registry/items/list/", headers={"Host": "data.example.org"})

    assert (answer.status_code, answer.headers["Location"]) == (307, "http://data.example.org/registry/items/list")


async def presigned(demo: Demo, http: httpx2.AsyncClient, **more: Any) -> httpx2.Response:
    asked = {"dataset_id": "10378.1/1002", "file_path": "loggers/sea temperature 2023+2024.csv", **more}
    return await http.post("/registry/items/generate-presigned-url", headers=bearer(demo), json=asked)


async def test_presigned_url_is_a_credential_of_its_own(
    demo: Demo, http: httpx2.AsyncClient, clock: ManualClock
) -> None:
    url = (await presigned(demo, http, expires_in=60)).json()["presigned_url"]
    whole = await http.get(url)
    part = await http.get(url, headers={"Range": "bytes=0-3"})
    forged = await http.get(url.replace("Expires=", "Expires=1"))
    with_token = await http.get(url, headers=bearer(demo))
    head = await http.head(url)
    await clock.advance(60)
    late = await http.get(url)

    assert (whole.status_code, len(pd.read_csv(io.BytesIO(whole.content)))) == (200, 72)
    assert (part.status_code, part.content) == (206, b"reef")
    assert [forged.status_code, with_token.status_code, head.status_code, late.status_code] == [403, 400, 403, 403]


@pytest.mark.parametrize(
    ("more", "status"),
    [({"file_path": "none.csv"}, 400), ({"file_path": "../x.csv"}, 400), ({"expires_in": 0}, 422)],
)
async def test_presigning_refuses_what_is_not_there(
    demo: Demo, http: httpx2.AsyncClient, more: dict[str, Any], status: int
) -> None:
    assert (await presigned(demo, http, **more)).status_code == status


async def test_other_services_of_the_preset_answer(demo: Demo, http: httpx2.AsyncClient) -> None:
    urls = [demo.configuration()["provena"][name] for name in ("registry", "prov", "search", "auth", "handle", "job")]
    health = [(await http.get(f"{url}/")).status_code for url in urls]
    found = await http.get(f"{urls[2]}/search/entity-registry?query=acropora", headers=bearer(demo))
    missing = await http.get(f"{urls[0]}/registry/general/fetch?id=1", headers=bearer(demo))

    assert health == [200] * 6
    assert [one["id"] for one in found.json()["results"]] == ["10378.1/1003"]
    assert (missing.status_code, missing.json()["status"]["success"]) == (200, False)


@pytest.mark.parametrize("length", ["yes", "no"])
async def test_bytes_of_any_size_with_and_without_length(http: httpx2.AsyncClient, length: str) -> None:
    answer = await http.get("/demo/bytes/200000", params={"seed": "7", "length": length})

    assert answer.content == b"".join(seeded_bytes(200_000, 7))
    assert answer.headers.get("Content-Length") == ("200000" if length == "yes" else None)


@pytest.mark.parametrize("length", ["yes", "no"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_broken_answer_never_looks_complete(http: httpx2.AsyncClient, length: str, how: str) -> None:
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        await http.get("/demo/broken/200000", params={"length": length, "how": how})


async def test_faults_are_not_part_of_the_demo(http: httpx2.AsyncClient) -> None:
    async with Demo() as plain:
        answer = await http.get(f"{plain.data_url}/demo/bytes/10")

    assert answer.status_code == 404
