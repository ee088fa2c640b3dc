"""The face over real sockets, in front of the demo's data store, whose storage checks every signature."""

import io
import json
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from proxy.demo import provena
from proxy.problems import PROBLEM
from tests.datasets.house import House, house
from tests.poll import eventually

STORE = Path(__file__).parents[2] / "proxy/demo/data/store/10378-1-1005"
TIF, CSV = "/10378.1/1005/files/grids/depth.tif", "/10378.1/1001/files/coral-cover.csv"
ODD = "/10378.1/1005/files/odd%20names/100%25%20%231%2B2%20(%C3%A9).csv"
CONTENT = (STORE / "grids/depth.tif").read_bytes()


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def test_a_file_is_a_plain_url(there: House) -> None:
    answer = await there.get(CSV)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.content.startswith(b"reef,")
    await eventually(lambda: bool(there.relayed), 5, what="the event")
    assert (there.relayed[-1].upstream, there.relayed[-1].sent) == ("provena_datasets", len(answer.content))


async def test_handles_and_paths_come_with_a_slash_or_its_code(there: House) -> None:
    for path in (TIF, TIF.replace("10378.1/", "10378.1%2F"), TIF.replace("grids/", "grids%2F")):
        answer = await there.get(path, {"Range": "bytes=0-9"})
        assert (answer.status_code, answer.content) == (206, CONTENT[:10]), path


async def test_odd_names_arrive_as_they_are(there: House) -> None:
    answer = await there.get(ODD)

    assert answer.content == (STORE / "odd names/100% #1+2 (é).csv").read_bytes()
    assert answer.headers["content-disposition"].endswith("filename*=UTF-8''100%25%20%231%2B2%20%28%C3%A9%29.csv")


RANGES: list[tuple[str, int, bytes]] = [
    ("bytes=0-0", 206, CONTENT[:1]),
    ("bytes=100-199", 206, CONTENT[100:200]),
    ("bytes=-7", 206, CONTENT[-7:]),
    ("bytes=66000-", 206, CONTENT[66000:]),
    ("bytes=99999999-", 416, b""),
    ("bytes=0-1,5-6", 200, CONTENT),
    ("lines=1-2", 200, CONTENT),
]


async def test_ranges(there: House) -> None:
    for asked, status, got in RANGES:
        answer = await there.get(TIF, {"Range": asked})
        assert (answer.status_code, answer.content) == (status, got), asked
        assert answer.headers["accept-ranges"] == "bytes"


async def test_conditions(there: House) -> None:
    """A revalidation that holds is a 304 without a body, and If-Range gives the range or the whole file."""
    etag = (await there.get(TIF, method="HEAD")).headers["etag"]
    date = "Fri, 01 Nov 2024 02:03:04 GMT"

    async def status(fields: dict[str, str], method: str = "GET") -> int:
        return (await there.get(TIF, fields, method)).status_code

    assert await status({"If-None-Match": etag}) == 304
    assert await status({"If-None-Match": etag}, "HEAD") == 304
    assert await status({"If-None-Match": f'"other", W/{etag}'}) == 304
    assert await status({"If-None-Match": '"other"'}) == 200
    assert await status({"If-Modified-Since": date}) == 304
    assert await status({"If-Match": '"other"'}) == 412
    assert await status({"Range": "bytes=0-9", "If-Range": etag}) == 206
    assert await status({"Range": "bytes=0-9", "If-Range": '"other"'}) == 200
    assert await status({"Range": "bytes=0-9", "If-Range": date}) == 206
    assert await status({"Range": "bytes=0-9", "If-Range": "Fri, 01 Nov 2019 02:03:04 GMT"}) == 200
    assert await status({"Range": "bytes=0-9", "If-Range": f"W/{etag}"}) == 200


@pytest.mark.parametrize(("path", "size"), [(TIF, 66834), ("/10378.1/1005/files/odd%20names/empty.txt", 0)])
async def test_head_tells_the_size_though_its_link_was_signed_for_get(there: House, path: str, size: int) -> None:
    head, got = await there.get(path, method="HEAD"), await there.get(path)

    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
    different = {"date", "content-length"}
    assert {n: v for n, v in head.headers.items() if n not in different} == {
        n: v for n, v in got.headers.items() if n not in different
    }


async def test_a_page_in_a_dataset_is_a_download_in_a_sandbox(there: House) -> None:
    answer = await there.get("/10378.1/1005/files/odd%20names/page.html")

    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.long
async def test_a_thousand_ranged_reads_cost_one_presign(there: House, is_long: bool) -> None:
    """A hundred in the short form."""
    for start in range(0, 50_000 if is_long else 5_000, 50):
        answer = await there.get(TIF, {"Range": f"bytes={start}-{start + 49}"})
        assert answer.content == CONTENT[start : start + 50]

    assert there.presigns() == 1


REFUSALS = [
    ("/10378.1/9/", 404, "There is no dataset 10378.1/9"),
    ("/10378.1/9/files/a.csv", 404, "has no file 'a.csv'"),
    ("/10378.1/1005/files/no.csv", 404, "has no file 'no.csv'"),
    ("/10378.1/1005/files/no/", 404, "has no folder 'no/'"),
    ("/10378.1/1005/files/no/?format=zip", 404, "has no file at this place"),
    ("/10378.1/1004/", 403, "You may not read dataset 10378.1/1004; ask carla for access."),
    ("/10378.1/1004/files/trial.csv", 403, "ask carla"),
    ("/10378.1/1004.zip", 403, "ask carla"),
    ("/10378.1/1005/files/a..b", 400, "may not hold"),
    ("/10378.1/1005/?format=xml", 400, "format is html"),
    ("/10378.1/1005/other", 404, "/10378.1/1005/files/"),
    ("/?after=nonsense", 400, "after="),
    (f"/?after={urlsafe_b64encode(b'[' * 30_000).decode()}", 400, "after="),
]


async def test_a_refusal_says_what_is_wrong(there: House) -> None:
    for path, status, said in REFUSALS:
        answer = await there.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), path
        assert said in answer.json()["detail"]


@pytest.mark.parametrize("page", ["0", "-1", "x", "9" * 5000])
async def test_a_page_that_makes_no_sense_is_the_first(there: House, page: str) -> None:
    """S34: Python refuses to read a number of 5 000 digits."""
    first, answer = await there.get("/?query=coral"), await there.get(f"/?query=coral&page={page}")

    assert (answer.status_code, answer.content) == (200, first.content)


async def test_what_is_malformed_reaches_nobody(there: House) -> None:
    before = dict(there.demo.data.calls)
    for path in ("/10378.1/1005/files/a%5Cb", "/10378.1/1005/files/x%2F%2Fy", "/10378.1/1005/files/a%01", "/a%20b/c/"):
        assert (await there.get(path)).status_code == 400

    assert dict(there.demo.data.calls) == before


async def test_datasets_are_only_read(there: House) -> None:
    for method in ("PUT", "DELETE", "POST", "PATCH"):
        answer = await there.get(TIF, method=method)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_missing_role_and_missing_roles_are_told_apart(tmp_path: Path) -> None:
    async with house(tmp_path, person="ben") as there:
        role = await there.get(CSV)
    async with house(tmp_path, client_id="automated-access", scope="offline_access") as there:
        bare = await there.get(CSV)

    assert (role.status_code, "entity-registry-read" in role.json()["detail"]) == (403, True)
    assert (bare.status_code, "scope 'roles'" in bare.json()["detail"]) == (503, True)


async def test_a_storage_that_is_away_is_502_and_comes_back(there: House) -> None:
    await there.demo.stop("storage")
    away = await there.get(TIF)
    await there.demo.start("storage")

    assert (away.status_code, (await there.get(TIF)).status_code) == (502, 200)
    assert "storage" in away.json()["detail"]


async def test_a_token_that_the_data_store_refuses_is_renewed(there: House) -> None:
    there.demo.issuer.rotate_key()
    await there.demo.stop("data")
    await there.demo.start("data")

    assert (await there.get(CSV)).status_code == 200


async def test_keys_that_ended_are_renewed(there: House) -> None:
    there.demo.data.key_seconds = 1e6  # the proxy believes this; the storage forgets them sooner
    assert (await there.get("/10378.1/1005/")).status_code == 200
    there.demo.data.store.gate.issued.clear()
    answer = await there.get("/10378.1/1005.zip")

    assert answer.status_code == 200
    assert there.demo.data.calls["/registry/credentials/generate-read-access-credentials"] == 2


# lists ---------------------------------------------------------------------------------------------------------------


async def test_a_dataset_is_listed_in_three_forms(there: House) -> None:
    as_json = await there.get("/10378.1/1005/", {"Accept": "application/json"})
    as_csv = await there.get("/10378.1/1005/?format=csv")
    as_html = await there.get("/10378.1/1005/", {"Accept": "text/html,*/*;q=0.8"})

    files = as_json.json()["files"]
    assert [one["path"] for one in files][:3] == ["grids/depth.tif", "grids/sst-monthly.nc", "metadata.json"]
    assert (files[0]["size"], files[0]["modified"]) == (66834, "2024-11-01T02:03:04Z")
    assert as_csv.text.splitlines()[1].startswith("grids/depth.tif,66834,2024-11-01T02:03:04Z,")
    assert as_html.headers["content-security-policy"].startswith("default-src 'none'")
    assert "100% #1+2 (é).csv" in as_html.text
    for one in files:
        assert (await there.get(one["url"])).status_code == 200, one


async def test_a_list_is_filtered_and_ordered(there: House) -> None:
    found = (await there.get("/10378.1/1005/?format=json&filter=ODD+names&sort=size&order=desc")).json()["files"]

    assert [one["size"] for one in found] == [89, 45, 23, 0]
    folder = (await there.get("/10378.1/1005/files/grids/?format=json")).json()
    assert ([one["path"] for one in folder["files"]], folder["size"]) == (
        ["grids/depth.tif", "grids/sst-monthly.nc"], 144_582,
    )  # fmt: skip


async def test_a_zip_holds_the_dataset_or_a_folder_of_it(there: House) -> None:
    whole = zipfile.ZipFile(io.BytesIO((await there.get("/10378.1/1005.zip")).content))
    folder = await there.get("/10378.1/1005/files/odd%20names/?format=zip")
    head = await there.get("/10378.1/1005.zip", method="HEAD")

    assert whole.testzip() is None
    assert whole.read("grids/depth.tif") == CONTENT
    assert len(zipfile.ZipFile(io.BytesIO(folder.content)).namelist()) == 4
    assert folder.headers["content-disposition"] == 'attachment; filename="10378.1-1005-odd names.zip"'
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "application/zip", b"")
    assert there.presigns() == 0  # one call for credentials, however many files


async def test_datasets_are_found_by_text_and_listed_without(there: House) -> None:
    found = (await there.get("/?query=temperature&format=json")).json()
    everything = (await there.get("/?format=csv")).text.splitlines()
    page = await there.get("/?query=acropora", {"Accept": "text/html"})

    assert {one["handle"] for one in found["datasets"]} == {"10378.1/1002", "10378.1/1005"}
    assert len(everything) == 1 + 5
    assert "Heat tolerance" in page.text
    assert "Coral cover" not in page.text


@pytest.mark.parametrize(("query", "sizes"), [("?query=reef", [10] * 5), ("?", [50, 14])])
async def test_pages_of_datasets_lead_to_the_next(
    there: House, monkeypatch: pytest.MonkeyPatch, query: str, sizes: list[int]
) -> None:
    """A search has 50 results, as the service's own; the list of all has no end but its own."""
    first = provena._ITEMS[0]
    many = [
        first
        | {
            "id": f"10378.1/2{n:03}",
            "display_name": f"Reef {n}",
            "s3": first["s3"] | {"path": f"datasets/10378-1-2{n:03}/"},
        }
        for n in range(64)
    ]
    monkeypatch.setattr(provena, "_ITEMS", many)
    got: list[list[str]] = []
    following = f"{there.url}/{query}&format=json"
    while following is not None:
        told = (await there.get(following)).json()
        got.append([one["handle"] for one in told["datasets"]])
        following = told["next"]
    page = (await there.get(f"/{query}", {"Accept": "text/html"})).text

    assert [len(one) for one in got] == sizes
    assert len({one for some in got for one in some}) == sum(sizes)
    assert 'rel="next"' in page


async def test_a_key_of_another_dataset_is_never_listed(there: House) -> None:
    """The keys could list the whole bucket; the prefix is ours, and ends with a slash."""
    there.demo.data.store.objects["datasets/10378-1-10011/secret.csv"] = there.demo.data.store.objects[
        "datasets/10378-1-1001/coral-cover.csv"
    ]
    listed = (await there.get("/10378.1/1001/?format=json")).text

    assert "secret" not in listed
    assert (await there.get("/10378.1/10011/")).status_code == 404


# the house's laws ----------------------------------------------------------------------------------------------------


async def test_a_web_page_of_another_origin_is_refused_here_too(there: House) -> None:
    """(A1, A2)"""
    for fields in ({"Host": "evil.com"}, {"Origin": "https://evil.com"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await there.get(CSV, fields)).status_code == 403
    assert sum(there.demo.data.calls.values()) == 0


async def test_a_caller_who_hangs_up_ends_the_read(there: House) -> None:
    """(A20)"""
    big = there.demo.data.store.objects
    big["datasets/10378-1-1005/big.bin"] = type(big["datasets/10378-1-1005/metadata.json"])(bytes(64 << 20))
    async with there.http.stream("GET", f"{there.url}/10378.1/1005/files/big.bin") as answer:
        async for _ in answer.aiter_raw():
            break
    await eventually(lambda: bool(there.relayed), 10, what="the end of the read")

    assert not there.relayed[-1].is_complete
    assert (await there.get(CSV)).status_code == 200


async def test_datasets_can_be_left_out(tmp_path: Path) -> None:
    async with house(tmp_path, more={"provena": {"datasets": False}}) as there:
        answer = await there.get(CSV)

    assert (answer.status_code, answer.json()["type"]) == (404, "/-/errors/no-upstream")


async def test_no_secret_is_in_an_answer_an_event_or_a_page(there: House) -> None:
    """Canaries: tokens, keys and signatures (A31)."""
    answers = [
        await there.get(path, {"Accept": accept})
        for path in (
            "/",
            "/?query=coral",
            "/10378.1/1005/",
            TIF,
            "/10378.1/1004/files/trial.csv",
            "/10378.1/1005/files/x",
        )
        for accept in ("text/html", "application/json", "text/plain")
    ]
    await there.demo.stop("storage")
    answers.append(await there.get(TIF))
    answers += [await there.http.get(f"http://127.0.0.1:{there.there.port}/-/{one}") for one in ("requests", "metrics")]
    token_set = await there.app.store.load("provena")
    assert token_set is not None
    secrets = [token_set.access_token, token_set.refresh_token or "-", "Signature=", "X-Amz-", "DEMO"]
    for keys in there.demo.data.store.gate.issued.values():
        secrets += [keys.secret_access_key, keys.session_token]
    told = [_everything(one) for one in answers] + [repr(one) for one in there.events]

    assert there.demo.data.store.gate.issued
    assert [secret for secret in secrets for one in told if secret in one] == []


def _everything(answer: httpx2.Response) -> str:
    return json.dumps(dict(answer.headers)) + answer.content.decode("latin-1")
