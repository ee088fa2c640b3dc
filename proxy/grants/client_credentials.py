"""The client itself signs in (RFC 6749 4.4)."""

from proxy.identities import Identity
from proxy.issuer import Issuer
from proxy.tokens import TokenSet


async def obtain(issuer: Issuer, identity: Identity) -> TokenSet:
    """Return a new set; raises as `Issuer.token_request` does."""
    scope = [("scope", identity.scope)] if identity.scope else []
    return await issuer.token_request([("grant_type", "client_credentials"), *scope])
