"""One identity as the page shows it: its state in words, when its sign-in ends, and what a person can do. Pure."""

from dataclasses import dataclass

from proxy.control.accounts import can_serve
from proxy.control.explanations import EXPLANATIONS
from proxy.control.view import IdentityStatus
from proxy.control.words import Moment, duration_words, moment_of
from proxy.identities import Grant, Identity

ENDING_SECONDS = 3600.0
"""So long before its end a sign-in is shown as one that ends: long enough to notice it in passing."""
_STATE_WORDS = {
    "ready": "Signed in",
    "sign-in-required": "Sign-in needed",
    "issuer-unavailable": "Issuer unreachable",
    "misconfigured": "Misconfigured",
    "starting": "Starting",
}
_GRANT_WORDS = {
    Grant.DEVICE_CODE: "Device code",
    Grant.AUTHORIZATION_CODE: "Authorization code",
    Grant.CLIENT_CREDENTIALS: "Client credentials",
    Grant.PASSWORD: "Password",
    Grant.REFRESH_TOKEN: "Refresh token",
}


@dataclass(frozen=True, slots=True)
class IdentityCard:
    """One identity, as the page shows it."""

    name: str
    state: str
    state_words: str
    is_serving: bool
    username: str | None
    is_offline: bool
    issuer: str | None
    client_id: str
    grant: str
    token: str
    token_end: Moment | None
    sign_in: str
    """`known`, `at-least`, `lasting` or `unknown`: what is known of its end; empty if there is nothing to say."""
    sign_in_end: Moment | None
    is_ending: bool
    """Whether that end is near enough to sign in again now."""
    signed_in: Moment | None
    detail: str
    command: str | None
    """What to run when a person has to act."""
    error_kind: str | None
    """The page that explains the state; None while all is well."""
    can_sign_in: bool
    """Whether a person signs in as this identity, which the page has a button for."""
    can_sign_out: bool


def identity_card(identity: Identity, status: IdentityStatus, now: float) -> IdentityCard:
    """Return one identity as the page shows it at `now`, seconds since the epoch."""
    return IdentityCard(
        name=identity.name,
        state=status.state,
        state_words=_state_words(identity, status),
        is_serving=can_serve(status, now),
        username=status.username,
        is_offline=status.is_offline,
        issuer=identity.issuer,
        client_id=identity.client_id,
        grant=_GRANT_WORDS[identity.grant],
        token=token_words(status, now),
        token_end=moment_of(status.expires_at) if status.expires_at is not None and status.expires_at > now else None,
        sign_in=_sign_in(status, now),
        sign_in_end=None if status.forecast is None else moment_of(status.forecast.ends_at, now),
        is_ending=_is_ending(status, now),
        signed_in=moment_of(status.signed_in_at or None, now),
        detail=status.detail or "",
        command=_command(identity, status),
        error_kind=_error_kind(status),
        can_sign_in=identity.grant.needs_person,
        can_sign_out=identity.grant.needs_person and status.signed_in_at is not None,
    )


def token_words(status: IdentityStatus, now: float) -> str:
    """Return what becomes of the access token: the newer one is fetched before the old one ends."""
    if status.expires_at is None:
        return "none"
    left = status.expires_at - now
    if left <= 0:
        return "ended"
    return f"renewed within {duration_words(left)}" if status.state == "ready" else f"ends in {duration_words(left)}"


def _state_words(identity: Identity, status: IdentityStatus) -> str:
    if status.state == "ready" and identity.grant is Grant.CLIENT_CREDENTIALS:
        return "Ready"  # nobody signed in: the client speaks for itself (RFC 6749 4.4)
    return _STATE_WORDS.get(status.state, status.state)


def _sign_in(status: IdentityStatus, now: float) -> str:
    seen = status.forecast
    if seen is None or seen.kind == "none" or (seen.ends_at is not None and seen.ends_at <= now):
        return ""
    return "lasting" if seen.kind == "unknown" and seen.is_lasting else seen.kind


def _is_ending(status: IdentityStatus, now: float) -> bool:
    seen = status.forecast
    return _sign_in(status, now) == "known" and seen is not None and (seen.ends_at or now) - now < ENDING_SECONDS


def _command(identity: Identity, status: IdentityStatus) -> str | None:
    if status.state == "sign-in-required":
        return f"bearerproxy login {identity.name}"
    return "bearerproxy check --online" if status.state == "misconfigured" else None


def _error_kind(status: IdentityStatus) -> str | None:
    kind = "identity-misconfigured" if status.state == "misconfigured" else status.state
    return kind if kind in EXPLANATIONS else None
