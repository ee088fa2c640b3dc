"""A person signs in with the browser of this machine (RFC 8252, with PKCE)."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from proxy.clock import Clock
from proxy.errors import GrantRefused
from proxy.grants.loopback import Listener
from proxy.grants.pkce import Proof
from proxy.grants.way_back import Callback, Landing, WayBack
from proxy.identities import Identity
from proxy.issuer import Issuer, for_people
from proxy.tasks import Tasks
from proxy.tokens import TokenSet


async def sign_in(
    issuer: Issuer,
    identity: Identity,
    *,
    open_url: Callable[[str], None],
    clock: Clock,
    landing: Landing = Listener,
    timeout_seconds: float = 300.0,
) -> TokenSet:
    """Have `open_url` show the issuer's page, wait for the browser to come back to `landing`, return the new set.

    `open_url` returns at once. Raises GrantRefused if the person or the issuer declines, if the answer is another
    issuer's, and after `timeout_seconds`; else what `Issuer.token_request` raises. Nothing is listening afterwards.
    """
    endpoint = await issuer.endpoint("authorization")
    proof, way_back = Proof(), WayBack()
    async with landing(way_back) as redirect_uri:
        asked = [
            ("response_type", "code"),
            ("client_id", identity.client_id),
            ("redirect_uri", redirect_uri),
            *([("scope", identity.scope)] if identity.scope else []),
            ("state", way_back.state),
            *proof.challenge,
            *identity.extra,
        ]
        open_url(f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}")
        callback = await _wait_for(way_back.callback, clock, timeout_seconds)
        code = _code(callback, issuer, identity)
        spent = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", proof.verifier),
        ]
        token_set = await issuer.token_request(spent)
        way_back.succeed()
        return token_set


async def _wait_for(callback: "asyncio.Future[Callback]", clock: Clock, seconds: float) -> Callback:
    tasks = Tasks()
    bound = tasks.start(clock.sleep(seconds), name="bound of a sign-in")
    either: set[asyncio.Future[Any]] = {callback, bound}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await tasks.close()
    if not callback.done():
        raise GrantRefused("expired_token", "nobody signed in within the time there was; start again")
    return callback.result()


def _code(callback: Callback, issuer: Issuer, identity: Identity) -> str:
    """Return the code of a callback that is the right issuer's and no refusal."""
    is_promised = issuer.announced("authorization_response_iss_parameter_supported") is True
    if (callback.issuer is not None or is_promised) and callback.issuer != identity.issuer:
        # > Clients MUST then compare the extracted and URL-decoded value ... and MUST NOT proceed (RFC 9207 2.4)
        raise GrantRefused("invalid_request", "the answer came from another issuer, and nothing of it was used")
    if callback.error is not None:
        raise GrantRefused(for_people(callback.error), for_people(callback.description))
    if not callback.code:
        raise GrantRefused("invalid_request", "the answer holds no code")
    return callback.code
