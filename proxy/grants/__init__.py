"""How a token is obtained: one module for each grant, and which of them need nobody.

Silent grants have `obtain(issuer, identity)`; those that need a person in front of a browser have `sign_in(...)`.
"""

import hashlib

from proxy.grants import client_credentials, password, refresh_token
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer, issuer_name, revealed
from proxy.tokens import TokenSet

REPEATABLE = (Grant.CLIENT_CREDENTIALS, Grant.PASSWORD)
"""Grants that can be made again at any time: all that they need is configured and is not used up."""


async def obtain(issuer: Issuer, identity: Identity) -> TokenSet:
    """Return a new set without a person; raises as `Issuer.token_request` does."""
    if identity.grant is Grant.CLIENT_CREDENTIALS:
        return await client_credentials.obtain(issuer, identity)
    if identity.grant is Grant.PASSWORD:
        return await password.obtain(issuer, identity)
    return await refresh_token.obtain(issuer, identity)


async def fingerprint(identity: Identity) -> str | None:
    """Return what the configuration itself signs in as: a seed or the inputs of a repeatable grant; None if nothing.

    A stored set with this fingerprint came from this configuration. Neither secrets of clients nor passwords are in it:
    changing them changes nobody's identity. Raises SecretError if the seed cannot be read.
    """
    inputs = [issuer_name(identity), identity.client_id]
    if identity.grant in REPEATABLE:
        inputs += [identity.grant.value, identity.scope or "", identity.username or "", repr(identity.extra)]
    elif identity.refresh_token is not None:
        inputs += [await revealed(identity.refresh_token)]
    else:
        return None
    # A seed has far more entropy than a hash could be searched for; half of it is enough to compare.
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:32]
