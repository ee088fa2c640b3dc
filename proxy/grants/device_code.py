"""A person signs in on any device that has a browser (RFC 8628).

Started by a local user action only, never by a request: whoever confirms a stranger's code signs the stranger in (S40).
"""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import GrantRefused, IssuerUnavailable
from proxy.grants.pkce import Proof
from proxy.identities import Identity
from proxy.issuer import DEVICE_CODE_GRANT, DeviceAuthorization, Issuer, StillPending
from proxy.tokens import TokenSet

SLOW_DOWN_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DevicePrompt:
    """What the person needs to see; the device code is not part of it."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    """The link with the code in it, if the issuer has one."""
    expires_at: float
    """Seconds since the epoch."""


async def sign_in(
    issuer: Issuer, identity: Identity, *, prompt: Callable[[DevicePrompt], None], clock: Clock
) -> TokenSet:
    """Show `prompt`, wait for the person, return the new set.

    Raises GrantRefused (`access_denied`, `expired_token` and so on), and what `Issuer.token_request` raises for
    configurations. An unreachable issuer is waited for while the code lives.
    """
    # Clients that demand PKCE demand it here too (Keycloak); others ignore what they do not know (RFC 6749 3.1).
    proof = Proof()
    wall, deadline = clock.wall(), clock.boot()
    asked = await issuer.device_authorization(identity.scope, proof.challenge)
    deadline += asked.expires_in
    expires_at = wall + asked.expires_in
    prompt(DevicePrompt(asked.user_code, asked.verification_uri, asked.verification_uri_complete, expires_at))
    return await _poll(issuer, asked, proof, deadline, clock)


async def _poll(issuer: Issuer, asked: DeviceAuthorization, proof: Proof, deadline: float, clock: Clock) -> TokenSet:
    """One poller for one code, which stops at success: some issuers revoke the grant when a used code comes again."""
    params = [
        ("grant_type", DEVICE_CODE_GRANT),
        ("device_code", asked.device_code),
        ("code_verifier", proof.verifier),
    ]
    interval = pause = asked.interval
    while clock.boot() + pause < deadline:
        await clock.sleep(pause)
        try:
            return await issuer.token_request(params)
        except StillPending as pending:
            # > the interval MUST be increased by 5 seconds for this and all subsequent requests (RFC 8628 3.5)
            interval += SLOW_DOWN_SECONDS if pending.is_too_fast else 0
            pause = interval
        except IssuerUnavailable as error:
            # > such as doubling the polling interval on each such connection timeout
            pause = max(min(pause * 2, LONGEST_PAUSE_SECONDS), interval, error.retry_after or 0)
    await clock.sleep(max(deadline - clock.boot(), 0))
    raise GrantRefused("expired_token", "the code was not confirmed in time; start again for a new one")
