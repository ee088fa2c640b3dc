"""Asking the issuer for the set that follows: with the seed, the refresh token, or all that is configured."""

from dataclasses import dataclass, replace

from proxy import grants
from proxy.errors import GrantRefused, IdentityMisconfigured, SignInRequired
from proxy.grants import refresh_token
from proxy.holding import Holding
from proxy.identities import Grant
from proxy.issuer import Issuer
from proxy.tokens import TokenSet
from proxy.uptake import Uptake


@dataclass(frozen=True, slots=True)
class Fresh:
    """What the issuer gave, and the epoch that must still be the current one for it to count."""

    token_set: TokenSet
    follows: int


async def fetch(holding: Holding, uptake: Uptake, issuer: Issuer) -> Fresh | None:
    """Return a set from the issuer, or None if the store turned out to hold a fresh one.

    Raises as `Issuer.token_request` does, and SignInRequired if there is nothing to ask with.
    """
    epoch, held = holding.epoch, holding.held  # read before anything is awaited: a sign-out meanwhile must show
    if holding.is_seeding:
        fresh = await grants.obtain(issuer, holding.identity)
        return Fresh(replace(fresh, epoch=epoch + 1, seed=holding.seed), follows=epoch)
    refused = None
    for _ in range(2):  # one `invalid_grant` costs one call, two if the store held a newer token
        if held is None or held.refresh_token is None or held.grant == Grant.CLIENT_CREDENTIALS:
            break
        try:
            return Fresh(await refresh_token.renew(issuer, held), follows=held.epoch)
        except GrantRefused as error:
            refused, spent = error, held.refresh_token
        await uptake.look()
        held = holding.held
        if held is None or held.refresh_token == spent:
            break
        if not holding.is_due(held):
            return None
    if holding.is_repeatable:
        return Fresh(await _repeated(holding, issuer, held, epoch), follows=epoch)
    if refused is not None:
        raise refused
    raise SignInRequired(holding.not_signed_in(), login=holding.identity.name)


async def _repeated(holding: Holding, issuer: Issuer, held: TokenSet | None, epoch: int) -> TokenSet:
    """Obtain anew what needs no person."""
    try:
        fresh = await grants.obtain(issuer, holding.identity)
    except GrantRefused as refused:
        raise IdentityMisconfigured(
            f"The issuer refuses what is configured ({refused}); check username and password of "
            f"[identity.{holding.identity.name}]."
        ) from refused
    signed_in_at = fresh.signed_in_at if held is None else held.signed_in_at
    return replace(fresh, epoch=epoch, seed=holding.seed, signed_in_at=signed_in_at)
