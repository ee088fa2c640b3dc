"""An explicit sign-out: forgotten here at once, revoked at the issuer, deleted from the store (T30)."""

from contextlib import AsyncExitStack

from proxy import grants
from proxy.errors import GrantRefused, ProxyError, SecretError
from proxy.events import Emit, SignedOut
from proxy.flights import WAIT_SECONDS, Flights
from proxy.holding import Holding
from proxy.issuer import Issuer
from proxy.tokens import TokenSet
from proxy.uptake import Uptake


async def sign_out(holding: Holding, uptake: Uptake, flights: Flights, issuer: Issuer, *, emit: Emit) -> str:
    """Revoke the grant (RFC 7009), forget it, and return what happened in one sentence.

    Works without a start, and without the issuer: then only the local part is done, and the sentence says so.
    """
    entry, name = holding.entry, holding.identity.name
    if flights.under_way is not None:
        await flights.wait_for(flights.under_way)  # or we would revoke a refresh token that has just been replaced
    held, is_unsaved = holding.held, entry.is_unsaved
    holding.forget(holding.epoch + 1, f"Signed out of '{name}'")
    async with AsyncExitStack() as stack:
        if flights.under_way is None:  # else it is our own flight that holds the lock, and hangs
            await entry.lock(stack, seconds=WAIT_SECONDS)
        async with entry.turn:
            reading = await entry.read()
            if reading is not None and reading.token_set is not None and not is_unsaved:
                held = reading.token_set  # another process may have renewed since
            if held is None and reading is not None:
                return f"Nobody was signed in as '{name}'."
            is_ours = held is not None and uptake.is_ours(held)
            troubles = [*await _revoked(issuer, held if is_ours else None), *await _deleted(holding)]
    emit(SignedOut(name))
    if troubles:
        return f"Signed out of '{name}' here, but not everywhere: {' '.join(troubles)}"
    return f"Signed out of '{name}', here and at the issuer."


async def _revoked(issuer: Issuer, held: TokenSet | None) -> list[str]:
    """Revoke `held` and return what went wrong, in sentences."""
    if held is None or held.refresh_token is None:
        return []
    try:
        await issuer.revoke(held.refresh_token, client_id=held.client_id)
    except (ProxyError, GrantRefused, SecretError) as error:
        return [str(error)]
    return []


async def _deleted(holding: Holding) -> list[str]:
    """Delete what is stored, remember the seed, and return what went wrong, in sentences."""
    troubles = []
    if holding.seed is None:  # not started, as in the command
        try:
            holding.seed = await grants.fingerprint(holding.identity)
        except SecretError as error:
            troubles.append(str(error))
    trace = await holding.entry.delete(holding.seed)
    if trace is None:
        return [*troubles, holding.entry.trouble]
    holding.epoch = max(holding.epoch, trace.epoch)
    return troubles
