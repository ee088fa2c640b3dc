"""A refresh token that we hold or are given (RFC 6749 6)."""

from dataclasses import replace

from proxy.errors import IdentityMisconfigured
from proxy.forecast import fixed_end
from proxy.identities import Identity
from proxy.issuer import Issuer
from proxy.tokens import TokenSet, claims


async def obtain(issuer: Issuer, identity: Identity) -> TokenSet:
    """Spend the configured refresh token, the seed; raises as `Issuer.token_request` does."""
    seed = "" if identity.refresh_token is None else await issuer.reveal(identity.refresh_token)
    fresh = await _spend(issuer, seed, identity.client_id)
    return replace(fresh, refresh_token=fresh.refresh_token or seed, scope=fresh.scope or identity.scope)


async def renew(issuer: Issuer, held: TokenSet) -> TokenSet:
    """Return the set that follows `held`: same sign-in, client and epoch, newer tokens.

    Raises as `Issuer.token_request` does, and IdentityMisconfigured if the answer is somebody else's.
    """
    spent = held.refresh_token or ""
    fresh = await _spend(issuer, spent, held.client_id)
    _check_same(held, fresh)
    new = replace(
        fresh,
        grant=held.grant,
        # > If a new refresh token is issued, the client MUST replace the old (RFC 6749 6); else the old one stays.
        refresh_token=fresh.refresh_token or spent,
        refresh_expires_at=fresh.refresh_expires_at if fresh.refresh_token else held.refresh_expires_at,
        scope=fresh.scope or held.scope,
        signed_in_at=held.signed_in_at,
        epoch=held.epoch,
        seed=held.seed,
        session_seconds=held.session_seconds,
    )
    return replace(new, session_ends_at=fixed_end(held, new))


async def _spend(issuer: Issuer, refresh_token: str, client_id: str) -> TokenSet:
    # No scope: an omitted one means the granted one, a repeated one can be refused where it was dropped (RFC 6749 6).
    params = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)]
    return await issuer.token_request(params, client_id=client_id)


def _check_same(held: TokenSet, fresh: TokenSet) -> None:
    """A renewal that changes the user or the client is never taken (S44)."""
    before, after = claims(held.access_token), claims(fresh.access_token)
    for name, what in (("sub", "user"), ("azp", "client")):
        if name in before and name in after and before[name] != after[name]:
            raise IdentityMisconfigured(
                f"The issuer answered a renewal with the token of another {what}, which is not used. Sign in again."
            )
