"""OpenTelemetry: one client span for each relayed request, where the operator's OTEL_… variables ask for them.

It knows events and nothing else, and nothing of it is imported where nobody asks. The SDK reads its own variables:
where spans go, how they are sampled and batched, what this service is called (OTEL_SERVICE_NAME). What a span says is
in no case a query, a field of the request, a token or a person.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.events import Event, Relayed

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

EXTRA = "pip install 'bearerproxy[otel]'"
_ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
"""Each of them asks for spans; without one we stay off, though the SDK would try a collector on this machine."""
_EXPORTERS = frozenset({"otlp", "console"})
CLOSE_SECONDS = 3.0
"""How long the end of the proxy waits for a collector to take the last spans."""


class TelemetryMissing(Exception):
    """Spans are asked for and cannot be made; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upstream is, for the attributes of its spans."""

    url: str
    """Its base URL."""
    host: str
    port: int
    mount: str
    """Its local path prefix."""


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Return whether the OTEL_… variables want spans (OpenTelemetry, SDK environment variables)."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return wanted != "none" and any(environ.get(name, "").strip() for name in _ASKED)


def exporting(environ: Mapping[str, str]) -> "SpanProcessor":
    """Return what brings spans to where the variables say, from a thread of its own. Raises TelemetryMissing."""
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if wanted not in _EXPORTERS:
        raise TelemetryMissing(f"OTEL_TRACES_EXPORTER={wanted} is not one that bearerproxy has: otlp, console or none.")
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if wanted == "otlp" and protocol not in (None, "", "http/protobuf"):
        raise TelemetryMissing(f"Spans are sent by http/protobuf alone, and OTEL_EXPORTER_OTLP_PROTOCOL={protocol}.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError as error:
        raise TelemetryMissing(f"OTEL_… variables ask for spans, which need the extra: {EXTRA}") from error
    return BatchSpanProcessor(OTLPSpanExporter() if wanted == "otlp" else ConsoleSpanExporter())


class Spans:
    """Makes a span of each Relayed event and hands it to `processor`; never waits for anybody."""

    def __init__(
        self,
        places: Mapping[str, Place],
        processor: "SpanProcessor",
        *,
        clock: Clock,
        version: str,
        environ: Mapping[str, str],
    ) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import SpanKind, Status, StatusCode

        said = {"service.version": version}
        if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            said["service.name"] = "bearerproxy"  # what is given here wins over the variables
        self._provider = TracerProvider(resource=Resource.create(said), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("bearerproxy", version)
        self._client, self._error = SpanKind.CLIENT, Status(StatusCode.ERROR)
        self._places = places
        self._wall = clock.wall

    def __call__(self, event: Event) -> None:
        """Make a span of a relayed request; every other event is none of ours."""
        if not isinstance(event, Relayed):
            return
        ended = self._wall()
        span = self._tracer.start_span(
            f"{event.method} {event.upstream}",
            context=_caller(event.traceparent),
            kind=self._client,
            attributes=attributes(event, self._places.get(event.upstream)),
            start_time=_nanoseconds(ended - event.seconds),
        )
        if event.status >= 400 or not event.is_complete:
            span.set_status(self._error)
        span.end(_nanoseconds(ended))

    def close(self) -> None:
        """Send what is left. Blocks for CLOSE_SECONDS at most, where the SDK would wait for its exporter."""
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


def attributes(event: Relayed, place: Place | None) -> dict[str, Any]:
    """Return a span's attributes by the semantic conventions for HTTP clients, version 1.23 and later."""
    said: dict[str, Any] = {
        "http.request.method": event.method,
        "http.response.status_code": event.status,
        "http.request.body.size": event.received,
        "http.response.body.size": event.sent,
        "bearerproxy.upstream": event.upstream,
    }
    if place is not None:
        said |= {"server.address": place.host, "server.port": place.port, "url.full": _url(event.target, place)}
    if event.is_replay:
        said["http.request.resend_count"] = 1
    if not event.is_complete:
        said["error.type"] = "broken_off"
    elif event.status >= 400:
        said["error.type"] = str(event.status)
    return said


def _url(target: str, place: Place) -> str:
    """Return the upstream's URL of a local target, without its query: keys and names of people stand there."""
    path = target.partition("?")[0]
    mount = place.mount.rstrip("/")
    if mount and (path == mount or path.startswith(f"{mount}/")):  # on an upstream's own port there is no mount
        path = path[len(mount) :]
    return place.url + path


def _caller(traceparent: str) -> "Context | None":
    """Return the span that the caller is in (W3C Trace Context), None if it said none."""
    if traceparent == "-":
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
