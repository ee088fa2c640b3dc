"""An explicit sign-in: which client and scope it uses, the run of its grant, and the new epoch that it starts.

Or the sign-in of another program, taken over by the refresh token that it kept.
"""

import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from proxy import grants
from proxy.clock import Clock
from proxy.errors import IssuerUnavailable, NotTakenOver, StoreError
from proxy.forecast import learned_seconds, session_start
from proxy.grants import authorization_code, device_code, refresh_token
from proxy.grants.device_code import DevicePrompt
from proxy.grants.loopback import Listener
from proxy.grants.way_back import Landing, OwnPort
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer, for_people, issuer_name
from proxy.stores import TokenStore
from proxy.token_files import FoundTokens
from proxy.tokens import TokenSet, claims

LOCK_SECONDS = 15.0
"""Longer than a renewal in another process usually takes; the epoch protects the sign-in from any that takes more."""


def plan(identity: Identity, *, offline: bool) -> Identity:
    """Return the identity as a sign-in uses it; `offline` means the client and scope of one that outlives the day.

    The secret belongs to the configured client and does not follow to another one.
    """
    if not offline:
        return identity
    client_id = identity.offline_client_id or identity.client_id
    scope = dict.fromkeys(f"{identity.scope or ''} {identity.offline_scope}".split())  # a set that keeps the order
    return replace(
        identity,
        client_id=client_id,
        client_secret=identity.client_secret if client_id == identity.client_id else None,
        scope=" ".join(scope),
    )


async def sign_in(
    identity: Identity,
    *,
    offline: bool,
    issuer_for: Callable[[Identity], Issuer],
    store: TokenStore,
    clock: Clock,
    device_prompt: Callable[[DevicePrompt], None],
    open_url: Callable[[str], None],
    own_port: OwnPort | None = None,
) -> TokenSet:
    """Run the identity's grant, store the set as a new sign-in, and return it as stored.

    `device_prompt` is called once by the device grant, `open_url` once by the authorization-code grant; both return at
    once. `own_port` is where its browser comes back if the identity has a redirect URI; without it a port is opened.
    A running proxy on the same store takes the set up by itself. Raises GrantRefused, IssuerUnavailable,
    IdentityMisconfigured, SecretError, and StoreError if the set cannot be kept.
    """
    planned = plan(identity, offline=offline)
    # Read before the person acts: a store that cannot be used must not cost them a sign-in.
    _ = await store.trace(identity.name)
    configured = await grants.fingerprint(identity)
    issuer = issuer_for(planned)
    try:
        if planned.grant is Grant.DEVICE_CODE:
            fresh = await device_code.sign_in(issuer, planned, prompt=device_prompt, clock=clock)
        elif planned.grant is Grant.AUTHORIZATION_CODE:
            landing: Landing = own_port.at(planned.redirect_uri) if own_port and planned.redirect_uri else Listener
            fresh = await authorization_code.sign_in(issuer, planned, open_url=open_url, clock=clock, landing=landing)
        else:
            fresh = await grants.obtain(issuer, planned)
    finally:
        await issuer.close()
    # An offline sign-in of a service account is somebody's wish, not what its configuration alone would obtain.
    seed = None if offline and planned.grant in grants.REPEATABLE else configured
    return await _keep(replace(fresh, seed=seed), identity.name, store)


def client_of(identity: Identity, given: str, *, is_offline: bool = False) -> str:
    """Return the client that may renew the refresh token `given`: the identity's own, or its offline client.

    A token that is a JWT tells (Keycloak's are); of another one `is_offline` is believed. Raises NotTakenOver if it
    tells that it is none of ours: no other issuer's token is sent to this one (S27).
    """
    said = claims(given)
    offline_client = identity.offline_client_id or identity.client_id
    if said.get("typ") in ("Bearer", "ID"):
        raise NotTakenOver("That is an access token or an ID token, which cannot be renewed; take the refresh token.")
    if isinstance(said.get("iss"), str) and identity.issuer is not None and said["iss"] != identity.issuer:
        theirs = for_people(said["iss"])
        raise NotTakenOver(f"That refresh token is of the issuer {theirs}, '{identity.name}' is of {identity.issuer}.")
    client = said.get("azp")
    if not isinstance(client, str):
        return offline_client if is_offline or said.get("typ") == "Offline" else identity.client_id
    if client not in (identity.client_id, offline_client):
        raise NotTakenOver(
            f"That refresh token was given to the client '{for_people(client)}', which alone can renew it, and the "
            f"client of '{identity.name}' is '{identity.client_id}': take it over as an identity of that client."
        )
    return client


async def take_over(
    identity: Identity,
    found: FoundTokens,
    *,
    is_offline: bool = False,
    issuer_for: Callable[[Identity], Issuer],
    store: TokenStore,
    clock: Clock,
) -> TokenSet:
    """Make another program's refresh token a sign-in of ours: proved by one renewal, stored as `sign_in` does.

    Nothing is stored unless the issuer accepts it. Raises NotTakenOver and what `sign_in` raises.
    """
    client_id, now = client_of(identity, found.refresh_token, is_offline=is_offline), clock.wall()
    given = TokenSet(
        access_token=found.access_token or "",
        expires_at=now,
        obtained_at=now,
        client_id=client_id,
        grant=identity.grant.value,
        refresh_token=found.refresh_token,
        scope=identity.scope,
        signed_in_at=now,
        seed=await grants.fingerprint(identity),
        issuer=issuer_name(identity),
    )
    # Read before the token is spent: a store that cannot be used must not cost the sign-in.
    _ = await store.trace(identity.name)
    issuer = issuer_for(identity)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(issuer.close)
        try:  # it may be the very token that a running proxy renews
            await stack.enter_async_context(store.renewal_lock(identity.name, timeout=LOCK_SECONDS))
        except TimeoutError as error:
            raise IssuerUnavailable(
                f"Another process has been renewing '{identity.name}' for too long; nothing was sent. Try again."
            ) from error
        fresh = await refresh_token.renew(issuer, given)
        start = session_start(fresh)
        return await _store(replace(fresh, signed_in_at=now if start is None else start), identity.name, store)


async def _keep(fresh: TokenSet, name: str, store: TokenStore) -> TokenSet:
    """Store `fresh` once no other process renews, or has done so for too long."""
    async with AsyncExitStack() as stack:
        with contextlib.suppress(TimeoutError):
            await stack.enter_async_context(store.renewal_lock(name, timeout=LOCK_SECONDS))
        return await _store(fresh, name, store)


async def _store(fresh: TokenSet, name: str, store: TokenStore) -> TokenSet:
    """Store `fresh` in an epoch of its own, so that no renewal of an earlier sign-in undoes it."""
    with contextlib.suppress(StoreError):  # a set that cannot be read is no reason not to replace it
        fresh = replace(fresh, session_seconds=learned_seconds(await store.load(name), fresh))
    while True:
        trace = await store.trace(name)
        kept = replace(fresh, epoch=trace.epoch + 1)
        if await store.save(name, kept):
            return kept


def was_offline_granted(token_set: TokenSet) -> bool:
    """Return whether the sign-in outlives the session: many issuers drop a scope they do not know without a word."""
    granted = (token_set.scope or "").split()
    return token_set.refresh_token is not None and (token_set.is_offline or "offline_access" in granted)
