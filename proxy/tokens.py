"""The token set: what an issuer gave us, as a frozen value that shows no secret.

Expiry is decided by two clocks (clock.py). A set that comes from the store knows only wall time; `boot_deadline` is
added when it enters this process.
"""

import base64
import binascii
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

DEFAULT_LIFE_SECONDS = 300.0
"""Life of an access token whose issuer sends no `expires_in` (RFC 6749 5.1 only recommends it); never "no expiry"."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """An access token, the refresh token beside it, and how both were obtained."""

    access_token: str = field(repr=False)
    expires_at: float
    """End of the access token, seconds since the epoch, counted from the *start* of the token request."""
    obtained_at: float
    """Start of the token request, seconds since the epoch."""
    client_id: str
    grant: str
    """The configured grant, `device_code` and so on, by which the sign-in (not this renewal) was made."""
    refresh_token: str | None = field(default=None, repr=False)
    refresh_expires_at: float | None = None
    """End of the refresh token as the issuer told it; None is *unknown* (Keycloak sends 0 for offline tokens)."""
    scope: str | None = None
    """The granted scope, or the requested one where the issuer did not repeat it (RFC 6749 5.1)."""
    signed_in_at: float = 0.0
    """When the sign-in was made; renewals keep it."""
    epoch: int = 0
    """Counts explicit sign-ins and sign-outs: a renewal of an older epoch is thrown away."""
    seed: str | None = None
    """Fingerprint of the configuration that this sign-in stands for: the refresh token that seeded it, or the inputs of
    a grant that needs no person. None for a sign-in by a person where none is configured."""
    issuer: str | None = None
    """Who issued it, so that a changed configuration never sends it elsewhere; None is unknown (S27)."""
    session_ends_at: float | None = None
    """End of the whole sign-in, seconds since the epoch, once renewals have shown it; None is not seen."""
    session_seconds: float | None = None
    """How long an earlier session of the same client lasted at most, if its end was seen."""
    boot_deadline: float | None = field(default=None, compare=False)
    """Moment of `clock.boot()` at which the access token ends; set when the set enters a process."""

    life: float = field(init=False, repr=False, compare=False)
    """Seconds from the start of the request to the end of the access token."""
    leeway: float = field(init=False, repr=False, compare=False)
    """Seconds before the end in which a request waits for a newer token: min(max(10, life/10), life/5).

    A second at least, where life has three: issuers count whole ones, so that a token can end that much earlier.
    """

    def __post_init__(self) -> None:
        """Work out what each request asks for."""
        life = max(self.expires_at - self.obtained_at, 0.0)
        object.__setattr__(self, "life", life)
        object.__setattr__(self, "leeway", max(min(max(10.0, life / 10), life / 5), min(1.0, life / 3)))

    @property
    def is_offline(self) -> bool:
        """True if the refresh token outlives the session (Keycloak marks it by `typ`; others by the scope)."""
        if self.refresh_token is None:
            return False
        return claims(self.refresh_token).get("typ") == "Offline"

    @property
    def username(self) -> str | None:
        """Who signed in, for people, from the unverified access token; None if it is opaque."""
        said = claims(self.access_token)
        for name in ("preferred_username", "upn", "email", "sub"):
            if isinstance(said.get(name), str):
                return str(said[name])
        return None

    def remaining(self, wall: float, boot: float) -> float:
        """Seconds left by the stricter of the two clocks; negative when expired.

        A backward jump of the wall clock never lengthens a life.
        """
        left = min(self.expires_at - wall, self.life)
        if self.boot_deadline is not None and self.boot_deadline - boot < left:
            left = self.boot_deadline - boot
        return left

    def entering(self, wall: float, boot: float) -> "TokenSet":
        """Return this set with its boot-time deadline fixed, as it enters the process at (`wall`, `boot`)."""
        return replace(self, boot_deadline=boot + min(self.expires_at - wall, self.life))

    def to_json(self) -> dict[str, Any]:
        """Return the store's form: JSON types only, secrets included."""
        return {
            "access_token": self.access_token,
            "expires_at": self.expires_at,
            "obtained_at": self.obtained_at,
            "client_id": self.client_id,
            "grant": self.grant,
            "refresh_token": self.refresh_token,
            "refresh_expires_at": self.refresh_expires_at,
            "scope": self.scope,
            "signed_in_at": self.signed_in_at,
            "epoch": self.epoch,
            "seed": self.seed,
            "issuer": self.issuer,
            "session_ends_at": self.session_ends_at,
            "session_seconds": self.session_seconds,
        }

    @classmethod
    def from_json(cls, stored: object) -> "TokenSet":
        """Return the set that `to_json` wrote.

        Raises ValueError if it is not one. An entry without an absolute expiry counts as expired.
        """
        if not isinstance(stored, dict) or not isinstance(stored.get("access_token"), str):
            raise ValueError("not a token set")  # noqa: TRY004 - a damaged file, not a caller's mistake
        expires_at = _number(stored.get("expires_at"), 0.0)
        obtained_at = _number(stored.get("obtained_at"), expires_at)
        return cls(
            access_token=stored["access_token"],
            expires_at=expires_at,
            obtained_at=obtained_at,
            client_id=_text(stored.get("client_id")) or "",
            grant=_text(stored.get("grant")) or "",
            refresh_token=_text(stored.get("refresh_token")),
            refresh_expires_at=_known(stored.get("refresh_expires_at")),
            scope=_text(stored.get("scope")),
            signed_in_at=_number(stored.get("signed_in_at"), obtained_at),
            epoch=int(_number(stored.get("epoch"), 0.0)),
            seed=_text(stored.get("seed")),
            issuer=_text(stored.get("issuer")),
            session_ends_at=_known(stored.get("session_ends_at")),
            session_seconds=_known(stored.get("session_seconds")),
        )


def claims(token: str) -> dict[str, Any]:
    """Return a JWT's claims *without verifying anything*; empty for opaque tokens.

    For display and comparison only: the upstream verifies tokens, we are not their audience.
    """
    try:
        payload = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError, binascii.Error):
        return {}
    return said if isinstance(said, dict) else {}


def _number(value: object, otherwise: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number and isinstance(value, int | float) else otherwise


def _known(value: object) -> float | None:
    number = _number(value, -1.0)
    return number if number >= 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
