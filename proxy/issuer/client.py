"""Who we are to the issuer, and how we show it: one style of client authentication, never probed.

A first try in the wrong style can spend the refresh token (S46).
"""

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote_plus, unquote_plus

from proxy.identities import Identity
from proxy.secret_refs import Secret


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows who we are: header fields, parameters, and every form in which its secret could come back."""

    fields: dict[str, str] = field(default_factory=dict, repr=False)
    params: Sequence[tuple[str, str]] = field(default=(), repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)


class Client:
    """The OAuth client of one identity."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.shown: dict[Secret, bytes] = {}
        """By `digest`, what the issuer was shown: if it refuses us, another value may be the right one (T16)."""

    async def proof(self, client_id: str, styles: object) -> Proof:
        """Return what to show as `client_id`; `styles` are those that the issuer announced. Raises SecretError."""
        secret = self._identity.client_secret if client_id == self._identity.client_id else None
        if secret is None:
            return Proof(params=[("client_id", client_id)])  # RFC 6749 3.2.1, a public client
        text = await self.reveal(secret)
        if isinstance(styles, list) and styles and "client_secret_basic" not in styles:
            return Proof(params=[("client_id", client_id), ("client_secret", text)])
        # > encoded using the "application/x-www-form-urlencoded" encoding algorithm per Appendix B (RFC 6749 2.3.1),
        # which many clients forget: a secret with + : % or & then fails.
        pair = f"{quote_plus(client_id)}:{quote_plus(text)}".encode("ascii")
        basic = "Basic " + base64.b64encode(pair).decode("ascii")
        return Proof({"authorization": basic}, secrets=_forms(basic))

    async def reveal(self, secret: Secret) -> str:
        """Return a secret that is about to be shown to the issuer, and remember its digest. Raises SecretError."""
        text = await revealed(secret)
        self.shown[secret] = digest(text)
        return text


async def revealed(secret: Secret) -> str:
    """Return the secret; raises SecretError. What may block (a command, a keyring) is read in a thread."""
    return secret.reveal() if secret.is_literal else await asyncio.to_thread(secret.reveal)


def digest(text: str) -> bytes:
    """Return what tells one value of a secret from another, and is kept in memory alone."""
    return hashlib.sha256(text.encode()).digest()


def _forms(basic: str) -> tuple[str, ...]:
    """Return every form in which a Basic credential could come back: encoded, and its secret."""
    encoded = basic.removeprefix("Basic ")
    password = base64.b64decode(encoded).decode("ascii").partition(":")[2]
    return basic, encoded, password, unquote_plus(password)
