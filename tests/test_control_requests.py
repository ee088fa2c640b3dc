"""The journal on the page, as CSV and as a stream; metrics; the paste box; what there is to copy."""

import asyncio
import csv
import io
from typing import Any

import pytest
from bs4 import BeautifulSoup
from prometheus_client.parser import text_string_to_metric_families as plain
from starlette.types import Message, Scope

from proxy.clock import ManualClock, settle
from proxy.control.mounts import health, spark
from proxy.control.streams import MOST, PAUSE_SECONDS, QUIET_SECONDS
from proxy.control.words import brief_words, size_words
from proxy.events import Refused, Relayed
from proxy.journal import Journal
from proxy.metrics import UpstreamCounts
from tests.test_control import NOW, World, upstream
from tests.test_metrics import openmetrics


def relayed(target: str = "/provena/data/x", **more: Any) -> Relayed:
    values: dict[str, Any] = {"status": 200, "received": 0, "sent": 1500, "seconds": 0.25, "token_age": 61.0} | more
    return Relayed(values.pop("upstream", "provena_data"), "GET", target, **values)


def world(*events: Relayed | Refused) -> World:
    made = World()
    for event in events or (
        relayed("/provena/data/first", is_replay=True),
        relayed("/dotstat/csv/second", upstream="csv", status=502, is_complete=False),
        Refused("no-upstream", 404, "GET", "/third", "No mount holds /third."),
    ):
        made.journal(event)
        made.metrics(event)
    return made


async def rows_of(made: World, path: str = "/-/requests") -> list[str]:
    async with made.http() as http:
        soup = BeautifulSoup((await http.get(path)).text, "html.parser")
    return [" ".join(row.get_text(" ").split()) for row in soup.select("#rows tr")]


async def test_the_newest_request_stands_first_with_all_there_is_to_know() -> None:
    third, second, first = await rows_of(world())
    took = "Size 1.5 kB Took 250 ms Token age 1 min"
    assert third.startswith("15:06:40 GET / third No mount holds /third. 404 Answered by bearerproxy no-upstream Size ")
    assert second == f"15:06:40 GET / dotstat/ csv/ second 502 broke off Answered by csv {took}"
    assert first == f"15:06:40 GET / provena/ data/ first 200 after renewal Answered by provena_data {took}"


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 3),
        ("?upstream=csv", 1),
        ("?status=2xx", 1),
        ("?status=5xx", 1),
        ("?status=own", 1),
        ("?text=SECOND", 1),
        ("?upstream=csv&status=2xx", 0),
        ("?upstream=&status=&text=", 3),
        ("?upstream=%3Cscript%3E", 0),
    ],
)
async def test_requests_are_filtered_on_the_page_and_in_the_csv(query: str, count: int) -> None:
    made = world()
    async with made.http() as http:
        table = list(csv.reader(io.StringIO((await http.get(f"/-/requests.csv{query}")).text)))

    assert len(await rows_of(made, f"/-/requests{query}")) == count
    assert len(table) == count + 1


async def test_the_csv_has_every_column() -> None:
    async with world().http() as http:
        answer = await http.get("/-/requests.csv")
    first, second, third = csv.DictReader(io.StringIO(answer.text))

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="requests.csv"' in answer.headers["content-disposition"]
    assert first == {
        "number": "1", "time": "2025-06-15T15:06:40Z", "method": "GET", "target": "/provena/data/first",
        "upstream": "provena_data", "status": "200", "received": "0", "sent": "1500", "seconds": "0.25",
        "token_age": "61.0", "is_replay": "True", "is_complete": "True", "answered_by": "upstream", "kind": "",
        "detail": "",
    }  # fmt: skip
    assert second["is_complete"] == "False"
    assert (third["answered_by"], third["kind"], third["detail"]) == (
        "bearerproxy", "no-upstream", "No mount holds /third.",
    )  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
async def test_no_cell_is_a_formula(start: str) -> None:
    """What a caller asked for must not run in the spreadsheet of who looks at it."""
    made = world(Refused("bad-request", 400, "-", f"{start}cmd|x", "No."))
    async with made.http() as http:
        (row,) = csv.DictReader(io.StringIO((await http.get("/-/requests.csv")).text))

    assert row["target"] == f"'{start}cmd|x"
    assert row["method"] == "'-"


async def test_no_cell_is_a_formula_where_a_semicolon_ends_one() -> None:
    """A web page that is refused is in the journal too, with the address that it asked for (S25)."""
    made = world(Refused("caller-refused", 403, "GET", "/x;=WEBSERVICE(1);@y;z=1;-2", "No."))
    async with made.http() as http:
        (row,) = csv.DictReader(io.StringIO((await http.get("/-/requests.csv")).text))

    assert row["target"] == "/x;'=WEBSERVICE(1);'@y;z=1;'-2"


async def test_a_journal_that_is_off_says_so() -> None:
    made = World(journal=Journal(ManualClock(NOW), length=0))
    async with made.http() as http:
        text = (await http.get("/-/requests")).text

    assert "The journal is off" in text
    assert "data-rows" not in text


# streams


class Stream:
    """One stream, read as a browser reads it."""

    def __init__(self, made: World, path: str, query: str = "", *, reads: bool = True, **fields: str) -> None:
        self.sent: list[Message] = []
        self._reads = reads
        self._gone = asyncio.Event()
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
            "server": ("127.0.0.1", 8400), "client": ("127.0.0.1", 5), "state": {}, "extensions": {},
        }  # fmt: skip
        self.task = asyncio.get_running_loop().create_task(self._run(made, scope))

    async def _run(self, made: World, scope: Scope) -> None:
        await made.app()(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not self._reads:
            await asyncio.Event().wait()

    @property
    def text(self) -> str:
        return b"".join(one.get("body", b"") for one in self.sent).decode()

    async def hang_up(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 5)


async def test_new_requests_arrive_as_rows() -> None:
    made = world()
    stream = Stream(made, "/-/requests/events", "after=3")
    await settle()
    assert "event: rows" not in stream.text

    made.journal(relayed("/provena/data/<fourth>"))
    await made.clock.advance(PAUSE_SECONDS)

    assert "event: rows\nid: 4\ndata: " in stream.text
    assert "&lt;fourth&gt;" in stream.text
    assert stream.text.count('id="request-') == 1
    await stream.hang_up()


async def test_a_stream_that_broke_goes_on_where_it_was() -> None:
    stream = Stream(world(), "/-/requests/events", "after=0", last_event_id="2")
    await settle()

    assert 'id="request-3"' in stream.text
    assert 'id="request-2"' not in stream.text
    await stream.hang_up()


async def test_rows_that_the_filter_keeps_out_do_not_arrive() -> None:
    made = world()
    stream = Stream(made, "/-/requests/events", "after=3&status=own")
    made.journal(relayed("/provena/data/fourth"))
    await settle()
    await made.clock.advance(PAUSE_SECONDS + QUIET_SECONDS)

    assert "event:" not in stream.text
    assert stream.text.count(": nothing new") >= 2, "a comment now and then, or a reader that has gone is never noticed"
    await stream.hang_up()


async def test_a_change_is_told_and_an_open_sign_in_page_is_counted() -> None:
    made = World()
    stream = Stream(made, "/-/events", "identity=provena")
    await settle()
    assert made.watching == ["provena"]
    before = stream.text.count("event: news")

    made.news.tell()
    await made.clock.advance(PAUSE_SECONDS)

    assert stream.text.count("event: news") == before + 1
    await stream.hang_up()
    assert made.watching == []


async def test_a_reader_that_stopped_reading_leaves_nothing_behind() -> None:
    """Cut off while it is written to, a stream is closed then and there."""
    made = World()
    stream = Stream(made, "/-/events", "identity=provena", reads=False)
    await settle()
    assert made.watching == ["provena"]

    await stream.hang_up()

    assert made.watching == []


async def test_streams_end_when_the_proxy_stops() -> None:
    made = World()
    stream = Stream(made, "/-/events")
    await settle()

    made.news.close()
    await made.clock.advance(PAUSE_SECONDS)

    await asyncio.wait_for(stream.task, 5)


async def test_there_is_a_bound_to_open_streams() -> None:
    made = World()
    app = made.app()
    made.app = lambda: app  # type: ignore[method-assign]  # one control plane for all of them
    streams = [Stream(made, "/-/events") for _ in range(MOST)]
    await settle()
    one_more = Stream(made, "/-/events")
    await settle()

    assert one_more.sent[0]["status"] == 503
    for stream in streams:
        await stream.hang_up()
    again = Stream(made, "/-/events")
    await settle()
    assert again.sent[0]["status"] == 200
    await again.hang_up()


@pytest.mark.parametrize("path", ["/-/events", "/-/requests/events"])
async def test_the_head_of_a_stream_is_no_stream(path: str) -> None:
    async with World().http() as http:
        answer = await http.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


# metrics


async def test_prometheus_gets_openmetrics_and_everybody_else_the_older_text() -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    async with world().http() as http:
        new, old = await http.get("/-/metrics", headers={"Accept": accept}), await http.get("/-/metrics")

    assert new.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert old.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {one.name: one for one in openmetrics(new.text)}
    assert set(families) == {one.name for one in plain(old.text)}
    left = {one.labels["identity"]: one.value for one in families["bearerproxy_token_left_seconds"].samples}
    assert left == {"provena": 262, "dotstat": 3100}
    (sign_in,) = families["bearerproxy_sign_in_left_seconds"].samples
    assert (sign_in.labels, sign_in.value) == ({"identity": "provena", "kind": "at-least"}, 33_140)
    assert {one.value for one in families["bearerproxy_identity_ready"].samples} == {1}


# the status page


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://data.example.org/rest/data/X?a=b&c=<d>", "http://localhost:8400/dotstat/csv/data/X?a=b&c=%3Cd%3E"),
        ("https://elsewhere.example.org/", "No mount leads to elsewhere.example.org."),
        ("   ", None),
    ],
)
async def test_a_pasted_address_gets_its_local_one_or_the_reason(address: str, words: str | None) -> None:
    async with World().http() as http:
        soup = BeautifulSoup((await http.get("/-/", params={"address": address})).text, "html.parser")
    found = soup.find(id="found")

    assert found is not None
    if words is None:
        assert found.get_text(strip=True) == ""
    else:
        assert words in found.get_text()


async def test_each_upstream_shows_how_it_has_been_answering() -> None:
    async with world().http() as http:
        soup = BeautifulSoup((await http.get("/")).text, "html.parser")
        account = (await http.get("/-/upstreams.json")).json()[1]
    shown = soup.find(id="answers-csv")

    assert shown is not None
    assert "502, broke off" in shown.get_text()
    assert "100% of 1 answer failed" in " ".join(shown.get_text().split())
    picture = shown.find("svg")
    assert picture is not None
    assert picture["aria-label"] == "Time of the last answers: usually 250 ms, 250 ms at most"
    assert (account["answers"]["5xx"], account["broken_answers"]) == (1, 1)
    assert account["recent"] == [{"status": 502, "seconds": 0.25, "is_complete": False}]


def test_one_slow_answer_does_not_flatten_the_others() -> None:
    recent = [(200, 0.1, True), (200, 0.3, True), (200, 90.0, True), (500, 0.2, True)]
    heights = [float(point.split(",")[1]) for point in spark(recent).line.split()]

    assert heights[2] == 2.0
    assert heights[0] - heights[1] > 1.5
    assert len(spark(recent).faults) == 1


@pytest.mark.parametrize("recent", [[(200, 0.0, True)], [(200, 0.0, True), (200, 0.0, True)]])
def test_answers_that_took_no_time_can_be_drawn(recent: list[tuple[int, float, bool]]) -> None:
    counts = UpstreamCounts()
    counts.recent.extend(recent)

    assert len(health(counts).spark.line.split()) == 2


async def test_the_page_of_an_upstream_has_its_lines_to_copy() -> None:
    async with World().http() as http:
        soup = BeautifulSoup((await http.get("/-/use/csv")).text, "html.parser")
        missing = await http.get("/-/use/nothing")

    assert 'read.csv("http://localhost:8400/dotstat/csv/data/FLOW/all")' in soup.get_text()
    assert soup.find(id="snippet-renviron") is not None
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/data/FLOW/A.AU?startPeriod=1990", "/dotstat/csv/data/FLOW/A.AU?startPeriod=1990"),
        ("data", "/dotstat/csv/data"),
        ("", "/dotstat/csv/"),
        ("//evil.example.org/x", "/dotstat/csv/evil.example.org/x"),
        ("/a b#c\r\nX: y", "/dotstat/csv/a%20b%23c%0D%0AX:%20y"),
    ],
)
async def test_a_path_is_tried_without_scripts_too(path: str, target: str) -> None:
    """By a redirect to the mount, on this origin and nowhere else."""
    async with World().http() as http:
        answer = await http.get("/-/use/csv", params={"path": path})

    assert (answer.status_code, answer.headers["location"]) == (303, target)


async def test_what_to_try_first_is_the_path_that_asks_for_a_token() -> None:
    upstreams = (upstream("data", "/data", identity="provena", probe="/items/fetch"),)
    async with World(upstreams=upstreams).http() as http:
        soup = BeautifulSoup((await http.get("/-/use/data")).text, "html.parser")

    assert soup.select_one("#path[value='/items/fetch']") is not None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (12.34, "12.3 s"), (90, "1 min")]
)
def test_times_of_answers_are_short(seconds: float, words: str) -> None:
    assert brief_words(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_are_short(count: float, words: str) -> None:
    assert size_words(count) == words
