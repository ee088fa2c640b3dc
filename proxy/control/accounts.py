"""Identities and upstreams as JSON for programs: `/-/ready`, `/-/identities.json`, `/-/upstreams.json`. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from proxy.control.view import IdentityStatus
from proxy.forecast import Forecast
from proxy.identities import Identity
from proxy.metrics import UpstreamCounts
from proxy.upstreams import Upstream

_LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999, which is as far as a calendar goes; issuers have sent more."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "0.0.0.0", "::"})


def iso(moment: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC, whole seconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(min(max(moment, 0.0), _LAST_MOMENT), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def can_serve(status: IdentityStatus, now: float) -> bool:
    """Return True if a request of this identity would get a token: an issuer's outage leaves a living token in use."""
    is_alive = status.expires_at is not None and status.expires_at > now
    return status.state == "ready" or (status.state == "issuer-unavailable" and is_alive)


def readiness(statuses: Iterable[IdentityStatus], now: float) -> tuple[bool, dict[str, Any]]:
    """Return whether every one of `statuses` can serve, and the answer's JSON with a reason for each that cannot.

    A sign-in that ends soon is ready: who needs it for longer looks at `ends`.
    """
    everyone = tuple(statuses)
    reasons = [
        {"identity": one.name, "state": one.state, "detail": one.detail or "", "page": f"/-/login/{one.name}"}
        for one in everyone
        if not can_serve(one, now)
    ]
    states = {one.name: one.state for one in everyone}
    ends = {one.name: ends_account(one.forecast) for one in everyone if one.forecast is not None}
    if reasons:
        return False, {"status": "not ready", "reasons": reasons, "identities": states, "ends": ends}
    return True, {"status": "ready", "identities": states, "ends": ends}


def ends_account(forecast: Forecast) -> dict[str, Any]:
    """Return when a sign-in ends: `kind` is `known`, `at-least`, `unknown` or `none`, `at` null in the last two."""
    return {"kind": forecast.kind, "at": iso(forecast.ends_at), "is_offline": forecast.is_lasting}


def identity_account(identity: Identity, status: IdentityStatus) -> dict[str, Any]:
    """Return what `bearerproxy status` shows of one identity: names and times, no token and no secret."""
    return {
        "name": identity.name,
        "state": status.state,
        "username": status.username,
        "issuer": identity.issuer,
        "client_id": identity.client_id,
        "grant": identity.grant.value,
        "expires_at": iso(status.expires_at),
        "refresh_expires_at": iso(status.refresh_expires_at),
        "signed_in_at": iso(status.signed_in_at or None),
        "is_offline": status.is_offline,
        "detail": status.detail or None,
        "ends": None if status.forecast is None else ends_account(status.forecast),
        "renewals": status.renewals,
        "failed_renewals": dict(status.failed_renewals),
        "replays": status.replays,
        "clock_skew_seconds": round(status.clock_skew),
    }


def upstream_account(upstream: Upstream, base_url: str, counts: UpstreamCounts | None = None) -> dict[str, Any]:
    """Return what a program needs to use one upstream, the policy that it will meet, and how it has been answering."""
    counted = counts or UpstreamCounts()
    return {
        "name": upstream.name,
        "mount": upstream.mount,
        "base_url": base_url + upstream.mount,
        "own_base_url": own_base_url(upstream),
        "url": upstream.url,
        "identity": upstream.identity,
        "policy": {
            "read_only": upstream.read_only,
            "methods": list(upstream.allowed_methods),
            "deny": list(upstream.deny),
            "accept": upstream.accept,
            "accept_language": upstream.accept_language,
        },
        "answers": {f"{digit}xx": count for digit, count in enumerate(counted.classes) if digit > 1},
        "broken_answers": counted.broken,
        "replays": counted.replays,
        "recent": [
            {"status": status, "seconds": round(seconds, 4), "is_complete": is_complete}
            for status, seconds, is_complete in counted.recent
        ],
    }


def own_base_url(upstream: Upstream) -> str | None:
    """Return the base URL of the upstream's own listener; None without one, or if the system chooses its port."""
    if upstream.listen is None or upstream.listen[1] == 0:
        return None
    host, port = upstream.listen
    shown = "localhost" if host in _LOOPBACK else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
