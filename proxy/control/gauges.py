"""What `/-/metrics` tells of identities: gauges of their state as it is when somebody asks. Pure."""

from collections.abc import Iterable, Iterator

from proxy.control.accounts import can_serve
from proxy.control.view import IdentityStatus
from proxy.metrics import Family


def gauges(statuses: Iterable[IdentityStatus], now: float, version: str) -> Iterator[Family]:
    """Yield the state of each identity at `now`, seconds since the epoch."""
    everyone = tuple(statuses)
    yield Family(
        "bearerproxy_identity_ready",
        "gauge",
        "1 if a request of this identity gets a token.",
        tuple(("", {"identity": one.name}, int(can_serve(one, now))) for one in everyone),
    )
    yield Family(
        "bearerproxy_token_left_seconds",
        "gauge",
        "How long the access token is still good for.",
        tuple(
            ("", {"identity": one.name}, round(max(one.expires_at - now, 0.0), 3))
            for one in everyone
            if one.expires_at is not None
        ),
    )
    yield Family(
        "bearerproxy_sign_in_left_seconds",
        "gauge",
        "How long until the sign-in ends; of kind at-least where a renewal moves the end on.",
        tuple(
            ("", {"identity": one.name, "kind": one.forecast.kind}, round(max(one.forecast.ends_at - now, 0.0), 3))
            for one in everyone
            if one.forecast is not None and one.forecast.ends_at is not None
        ),
    )
    yield Family(
        "bearerproxy_issuer_clock_skew_seconds",
        "gauge",
        "How far the clock of the issuer is ahead of the one of this machine.",
        tuple(("", {"identity": one.name}, one.clock_skew) for one in everyone),
    )
    yield Family("bearerproxy_build", "gauge", "Always 1; the label has the version.", (("", {"version": version}, 1),))
