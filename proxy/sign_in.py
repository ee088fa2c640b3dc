"""An explicit sign-in: which client and scope it uses, the run of its grant, and the new epoch that it starts."""

import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from proxy import grants
from proxy.clock import Clock
from proxy.grants import authorization_code, device_code
from proxy.grants.device_code import DevicePrompt
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer
from proxy.stores import TokenStore
from proxy.tokens import TokenSet

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
) -> TokenSet:
    """Run the identity's grant, store the set as a new sign-in, and return it as stored.

    `device_prompt` is called once by the device grant, `open_url` once by the authorization-code grant; both return at
    once. A running proxy on the same store takes the set up by itself. Raises GrantRefused, IssuerUnavailable,
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
            fresh = await authorization_code.sign_in(issuer, planned, open_url=open_url, clock=clock)
        else:
            fresh = await grants.obtain(issuer, planned)
    finally:
        await issuer.close()
    # An offline sign-in of a service account is somebody's wish, not what its configuration alone would obtain.
    seed = None if offline and planned.grant in grants.REPEATABLE else configured
    return await _keep(replace(fresh, seed=seed), identity.name, store)


async def _keep(fresh: TokenSet, name: str, store: TokenStore) -> TokenSet:
    """Store `fresh` in an epoch of its own, so that no renewal of an earlier sign-in undoes it."""
    async with AsyncExitStack() as stack:
        with contextlib.suppress(TimeoutError):
            await stack.enter_async_context(store.renewal_lock(name, timeout=LOCK_SECONDS))
        while True:
            trace = await store.trace(name)
            kept = replace(fresh, epoch=trace.epoch + 1)
            if await store.save(name, kept):
                return kept


def was_offline_granted(token_set: TokenSet) -> bool:
    """Return whether the sign-in outlives the session: many issuers drop a scope they do not know without a word."""
    granted = (token_set.scope or "").split()
    return token_set.refresh_token is not None and (token_set.is_offline or "offline_access" in granted)
