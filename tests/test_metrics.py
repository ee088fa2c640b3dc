"""Counters: what is counted, and that scrapers can read it."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as plain

from proxy.events import Misconfigured, Refused, Relayed, RenewalFailed, SignInEnded, TokenRenewed
from proxy.metrics import BOUNDS, RECENT, Family, Metrics, exposition

openmetrics: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families


def relayed(upstream: str = "data", **more: Any) -> Relayed:
    values: dict[str, Any] = {"status": 200, "received": 3, "sent": 5, "seconds": 0.02} | more
    return Relayed(upstream, "GET", "/data/secret-path", **values)


def busy() -> Metrics:
    metrics = Metrics(in_flight=lambda: {"data": 2, "rest": 0})
    for event in (
        relayed(),
        relayed(status=404, seconds=0.3),
        relayed(status=200, seconds=4000.0, is_complete=False),
        relayed("rest", is_replay=True),
        Refused("caller-refused", 403, "GET", "/secret-path", "No."),
        Refused("caller-refused", 403, "GET", "/secret-path", "No."),
        TokenRenewed("me", 300.0, 0.1),
        RenewalFailed("me", "no route", 2.0, has_valid_token=True),
        SignInEnded("me", "over"),
        Misconfigured("you", "invalid_client"),
    ):
        metrics(event)
    return metrics


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in openmetrics(text)
        for one in family.samples
    }


def test_openmetrics_parses_and_says_what_happened() -> None:
    """The parser is the reference one, and strict."""
    told = samples(exposition(busy().families(), is_openmetrics=True))

    assert told["bearerproxy_requests_total", (("class", "2xx"), ("upstream", "data"))] == 2
    assert told["bearerproxy_requests_total", (("class", "4xx"), ("upstream", "data"))] == 1
    assert told["bearerproxy_broken_answers_total", (("upstream", "data"),)] == 1
    assert told["bearerproxy_replays_total", (("upstream", "rest"),)] == 1
    assert told["bearerproxy_received_bytes_total", (("upstream", "data"),)] == 9
    assert told["bearerproxy_sent_bytes_total", (("upstream", "data"),)] == 15
    assert told["bearerproxy_requests_in_flight", (("upstream", "data"),)] == 2
    assert told["bearerproxy_refusals_total", (("kind", "caller-refused"),)] == 2
    for identity, outcome in [("me", "renewed"), ("me", "unavailable"), ("me", "ended"), ("you", "misconfigured")]:
        assert told["bearerproxy_renewals_total", (("identity", identity), ("outcome", outcome))] == 1


def test_the_histogram_counts_upwards_and_agrees_with_itself() -> None:
    told = samples(exposition(busy().families(), is_openmetrics=True))
    name = "bearerproxy_request_duration_seconds"
    buckets = [told[f"{name}_bucket", (("le", le), ("upstream", "data"))] for le in (*map(str, BOUNDS), "+Inf")]

    assert buckets == sorted(buckets)
    assert buckets[-1] == told[f"{name}_count", (("upstream", "data"),)] == 3
    assert told[f"{name}_bucket", (("le", "0.025"), ("upstream", "data"))] == 1
    assert told[f"{name}_sum", (("upstream", "data"),)] == pytest.approx(4000.32)


def test_a_duration_on_a_bound_belongs_to_it() -> None:
    metrics = Metrics()
    metrics(relayed(seconds=0.005))

    assert metrics.upstreams["data"].buckets[0] == 1


def test_the_older_text_parses_too() -> None:
    families = {one.name: one for one in plain(exposition(busy().families(), is_openmetrics=False))}

    assert families["bearerproxy_requests"].type == "counter"
    assert families["bearerproxy_request_duration_seconds"].type == "histogram"
    assert all(one.documentation for one in families.values())


@pytest.mark.parametrize("is_openmetrics", [True, False])
def test_nothing_counted_is_a_sound_answer(is_openmetrics: bool) -> None:
    text = exposition(Metrics().families(), is_openmetrics=is_openmetrics)

    assert len(list((openmetrics if is_openmetrics else plain)(text))) == 9


def test_no_label_holds_a_path() -> None:
    """S36"""
    assert "secret-path" not in exposition(busy().families(), is_openmetrics=True)


def test_a_label_may_hold_anything() -> None:
    name = 'a"b\\c\nd'
    family = Family("bearerproxy_x", "gauge", "Text.", (("", {"name": name}, 1.5),))

    (read,) = openmetrics(exposition([family], is_openmetrics=True))
    assert (read.samples[0].labels, read.samples[0].value) == ({"name": name}, 1.5)


def test_the_last_answers_of_each_upstream_are_kept_and_no_more() -> None:
    metrics = Metrics()
    for number in range(RECENT + 5):
        metrics(relayed(seconds=float(number)))

    recent = metrics.upstreams["data"].recent
    assert len(recent) == RECENT
    assert recent[-1] == (200, RECENT + 4, True)


def test_a_request_costs_the_counters_next_to_nothing() -> None:
    metrics, event = Metrics(), relayed()
    begun = time.perf_counter()
    for _ in range(20_000):
        metrics(event)

    assert (time.perf_counter() - begun) / 20_000 < 20e-6
