"""Issuers: is their clock ours, are they who we say, do they know offline tokens. Pure."""

from proxy.doctor.finding import Finding
from proxy.errors import BearerproxyError, IdentityMisconfigured
from proxy.identities import Identity

SKEW_SECONDS = 60.0
"""Tokens do not mind, whose lives are counted from their requests; certificates and the services' own clocks do."""


def place(identity: Identity) -> str:
    return f"[identity.{identity.name}]"


def clock(identity: Identity, skew_seconds: float) -> Finding:
    """Judge how far the issuer's clock is ahead of ours."""
    about = place(identity)
    if abs(skew_seconds) < SKEW_SECONDS:
        return Finding.ok("clock", about, "This machine's clock agrees with the issuer's.")
    how = "behind" if skew_seconds > 0 else "ahead of"
    return Finding.wrong(
        "clock",
        about,
        f"This machine's clock is {abs(skew_seconds):.0f} s {how} the issuer's.",
        "Switch automatic time on (Linux: timedatectl set-ntp true; Windows: w32tm /resync).",
    )


def metadata(identity: Identity, error: BearerproxyError | None) -> Finding:
    """Judge whether the issuer's metadata are there and its own (RFC 8414 3.3)."""
    about = place(identity)
    if error is None:
        return Finding.ok("issuer", about, f"{identity.issuer or identity.endpoints.token} answers.")
    text, separator, cure = str(error).partition("; in [")
    if isinstance(error, IdentityMisconfigured) and separator:
        return Finding.wrong("issuer", about, f"{text}.", f"In [{cure}")
    return Finding.wrong("issuer", about, str(error), "Look at issuer, the network and [network] proxy.")


def offline(identity: Identity, scopes_supported: object) -> Finding | None:
    """Judge whether `login --offline` can work; None if the issuer does not say what it knows."""
    if not identity.grant.needs_person or not isinstance(scopes_supported, list):
        return None
    about = place(identity)
    if "offline_access" in scopes_supported:
        return Finding.ok("offline", about, "The issuer knows offline_access: `login --offline` can be tried.")
    return Finding.note(
        "offline",
        about,
        "The issuer does not list offline_access, so sign-ins end with their session.",
        "If you need one that outlives the day, ask its operator for that scope.",
    )
