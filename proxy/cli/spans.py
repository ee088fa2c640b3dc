"""Spans for `serve` where the operator's OTEL_… variables ask for them; elsewhere one look at the environment."""

from collections.abc import Iterator
from contextlib import contextmanager

from proxy import __version__
from proxy.clock import SystemClock
from proxy.config import Configuration
from proxy.events import Emit, Event, Warned
from proxy.secret_refs import shown_environment
from proxy.telemetry import Place, Spans, TelemetryMissing, exporting, is_asked_for


@contextmanager
def with_spans(configuration: Configuration, emit: Emit) -> Iterator[Emit]:
    """Yield `emit`, or what tells both it and the spans; the last ones are sent at the end."""
    environ = shown_environment(configuration.secret_variables)
    if not is_asked_for(environ):
        yield emit
        return
    places = {one.name: Place(one.url, one.host, one.port, one.mount) for one in configuration.upstreams}
    try:
        spans = Spans(places, exporting(environ), clock=SystemClock(), version=__version__, environ=environ)
    except TelemetryMissing as missing:
        emit(Warned(str(missing)))
        yield emit
        return

    def tell(event: Event) -> None:
        emit(event)
        spans(event)

    try:
        yield tell
    finally:
        spans.close()
