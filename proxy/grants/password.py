"""A configured user name and password (RFC 6749 4.3).

> The resource owner password credentials grant MUST NOT be used (RFC 9700 2.4)

It is here because .Stat Suite documents it, and only where it is chosen; the configuration warns.
"""

from proxy.identities import Identity
from proxy.issuer import Issuer
from proxy.tokens import TokenSet


async def obtain(issuer: Issuer, identity: Identity) -> TokenSet:
    """Return a new set; raises as `Issuer.token_request` does."""
    secret = "" if identity.password is None else await issuer.reveal(identity.password)
    scope = [("scope", identity.scope)] if identity.scope else []
    params = [("grant_type", "password"), ("username", identity.username or ""), ("password", secret)]
    return await issuer.token_request([*params, *scope])
