"""Spans of relayed requests: what they say, what they never say, and that they arrive at a collector (OTLP/HTTP)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxy.clock import ManualClock
from proxy.demo import Demo
from proxy.events import Refused, Relayed, TokenRenewed
from proxy.telemetry import EXTRA, Place, Spans, TelemetryMissing, exporting, is_asked_for
from tests.command import Serving, serving
from tests.poll import eventually

NOON = 2_105_438_400.0
DATA = Place("https://data.example.org/api", "data.example.org", 443, "/data")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def relayed(**said: Any) -> Relayed:
    values = {"status": 200, "received": 3, "sent": 5, "seconds": 0.25, **said}
    return Relayed(
        values.pop("upstream", "data"), "GET", values.pop("target", "/data/items?key=canary-secret"), **values
    )


def spans_of(*events: object, environ: Mapping[str, str] | None = None) -> list[ReadableSpan]:
    """Return the spans that events make."""
    kept = InMemorySpanExporter()
    clock = ManualClock(wall=NOON)
    spans = Spans({"data": DATA}, SimpleSpanProcessor(kept), clock=clock, version="1.2.3", environ=environ or {})
    for event in events:
        spans(event)  # type: ignore[arg-type] # events of every kind
    spans.close()
    return list(kept.get_finished_spans())


def test_a_relayed_request_is_a_client_span_by_the_conventions_for_http() -> None:
    [span] = spans_of(relayed())

    assert (span.name, span.kind, span.status.status_code) == ("GET data", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.request.body.size": 3,
        "http.response.body.size": 5,
        "server.address": "data.example.org",
        "server.port": 443,
        "url.full": "https://data.example.org/api/items",
        "bearerproxy.upstream": "data",
    }


def test_it_lasts_as_long_as_the_request_did() -> None:
    [span] = spans_of(relayed(seconds=0.25))

    assert span.end_time == NOON * 1e9
    assert span.start_time == (NOON - 0.25) * 1e9


@pytest.mark.parametrize(
    ("said", "is_error", "more"),
    [
        ({"status": 404}, True, {"error.type": "404"}),
        ({"status": 503}, True, {"error.type": "503"}),
        ({"status": 304}, False, {}),
        ({"is_complete": False}, True, {"error.type": "broken_off"}),
        ({"is_replay": True}, False, {"http.request.resend_count": 1}),
    ],
)
def test_what_went_wrong_is_told(said: Mapping[str, Any], is_error: bool, more: Mapping[str, Any]) -> None:
    [span] = spans_of(relayed(**said))

    assert (span.status.status_code is StatusCode.ERROR) is is_error
    assert {**(span.attributes or {}), **more} == span.attributes


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/data/items?a=1", "https://data.example.org/api/items"),
        ("/data", "https://data.example.org/api"),
        ("/items", "https://data.example.org/api/items"),  # on a port of its own
        ("/database/x", "https://data.example.org/api/database/x"),
    ],
)
def test_the_url_is_the_upstream_s_without_its_query(target: str, url: str) -> None:
    [span] = spans_of(relayed(target=target))

    assert (span.attributes or {})["url.full"] == url


def test_a_span_stands_below_the_caller_s() -> None:
    [span] = spans_of(relayed(traceparent=TRACE))

    assert span.parent is not None
    assert f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01" == TRACE
    assert span.context is not None
    assert span.context.trace_id == span.parent.trace_id


@pytest.mark.parametrize("traceparent", ["-", "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_trace_that_is_none_begins_a_new_one(traceparent: str) -> None:
    [span] = spans_of(relayed(traceparent=traceparent))

    assert span.parent is None


def test_a_trace_that_its_caller_does_not_sample_is_not_recorded() -> None:
    assert spans_of(relayed(traceparent=TRACE[:-1] + "0")) == []


def test_nothing_else_is_a_span() -> None:
    assert spans_of(Refused("no-upstream", 404, "GET", "/x", "No."), TokenRenewed("me", 300.0, 0.1)) == []


def test_what_is_no_upstream_of_its_own_has_no_address() -> None:
    """Files of datasets come from a storage that the event does not name."""
    [span] = spans_of(relayed(upstream="provena_datasets"))

    assert "url.full" not in (span.attributes or {})


def test_s36_no_query_caller_or_agent_is_in_a_span() -> None:
    [span] = spans_of(relayed(peer="10.0.0.7", agent="canary-agent", target="/data/x?name=canary"))

    text = span.to_json()
    assert "canary" not in text
    assert "10.0.0.7" not in text


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "bearerproxy"),
        ({"OTEL_SERVICE_NAME": "office"}, "office"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=lab,team=reef"}, "lab"),
    ],
)
def test_the_service_is_called_as_the_operator_says(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str
) -> None:
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    [span] = spans_of(relayed(), environ=environ)

    assert span.resource.attributes["service.name"] == name
    assert span.resource.attributes["service.version"] == "1.2.3"


@pytest.mark.parametrize(
    ("environ", "is_asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_nothing_is_made_unless_the_variables_ask_for_it(environ: dict[str, str], is_asked: bool) -> None:
    assert is_asked_for(environ) is is_asked


def test_without_the_extra_the_command_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(TelemetryMissing, match=EXTRA.replace("[", r"\[").replace("]", r"\]")):
        exporting({"OTEL_TRACES_EXPORTER": "otlp"})


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
)
def test_an_exporter_that_there_is_none_of_is_said(environ: dict[str, str]) -> None:
    with pytest.raises(TelemetryMissing, match=environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "zipkin")):
        exporting(environ)


# The command ---------------------------------------------------------------------------------------------------------


@dataclass
class Collector:
    """What stands at OTEL_EXPORTER_OTLP_ENDPOINT."""

    port: int
    bodies: list[bytes] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length"))
        there.bodies.append(await reader.readexactly(int(length.partition(":")[2])))
        there.heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    there = Collector(server.sockets[0].getsockname()[1])
    async with server:
        yield there


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[Serving]:
    """A running `serve` in front of the demo's statistics."""
    async with Demo() as demo:
        config = folder / "proxy.toml"
        config.write_text(f'[upstream.data]\nurl = "{demo.nsi_url}/rest"\nanonymous = true\n')
        async with serving(config) as proxy:
            yield proxy


PATH = "/data/dataflow/all/all/latest"


async def test_a_relayed_request_arrives_at_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end at the latest, and at once when the batch's time is over."""
    async with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{there.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=for-the-collector")
        async with proxied(tmp_path) as proxy:
            asked = await proxy.get(f"{PATH}?name=canary-secret", {"traceparent": TRACE})
            assert asked.status_code == 200
            assert await proxy.stop() == 0

    [body] = there.bodies
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    [span] = [span for scope in resource.scope_spans for span in scope.spans]
    assert span.name == "GET data"
    assert f"00-{span.trace_id.hex()}-{span.parent_span_id.hex()}-01" == TRACE
    assert there.heads[0].startswith("POST /v1/traces ")
    assert "for-the-collector" in there.heads[0]
    assert b"canary-secret" not in body


async def test_a_collector_that_is_away_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    async with proxied(tmp_path) as proxy:
        for _ in range(3):
            assert (await proxy.get(PATH)).status_code == 200
        assert await proxy.stop() == 0


async def test_asked_for_without_the_extra_it_serves_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    async with proxied(tmp_path) as proxy:
        assert (await proxy.get(PATH)).status_code == 200
        await eventually(lambda: any("zipkin" in line for line in proxy.lines), what="the warning")


async def test_where_nobody_asks_nothing_of_it_is_loaded() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys, proxy.cli.serving; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))",
    )

    assert await process.wait() == 0
