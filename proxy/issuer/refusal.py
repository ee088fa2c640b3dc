"""What an answer means that is not a good one, by the RFC's codes and never by their descriptions. Pure."""

from collections.abc import Sequence

from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured, IssuerUnavailable
from proxy.identities import Identity
from proxy.issuer.answer import Answer, for_people, retry_after

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_GRANT_ENDED = frozenset({"invalid_grant"})
_DEVICE_ENDED = frozenset({"access_denied", "expired_token"})  # RFC 8628 3.5


class StillPending(BearerproxyError):
    """The person has not decided yet (RFC 8628 3.5); `is_too_fast` is the issuer's `slow_down`."""

    def __init__(self, *, is_too_fast: bool) -> None:
        super().__init__("slow_down" if is_too_fast else "authorization_pending")
        self.is_too_fast = is_too_fast


def misconfigured(identity: Identity, what: str, cure: str) -> IdentityMisconfigured:
    """Return the failure that nothing but a change of `identity` can cure."""
    return IdentityMisconfigured(f"{what}; in [identity.{identity.name}] {cure}.")


def refusal(
    answer: Answer, identity: Identity, *, client_id: str, grant_type: str, secrets: Sequence[str], now: float
) -> BearerproxyError:
    """Return what `answer` means (RFC 6749 5.2, RFC 8628 3.5); `now` is wall time."""
    said = answer.json or {}
    code = said.get("error")
    is_final = 400 <= answer.status < 500 and answer.status not in (408, 429)
    if not is_final or not isinstance(code, str):
        return IssuerUnavailable(_transient(answer), retry_after=retry_after(answer, now=now))
    told = said.get("error_description")
    description = for_people(told, secrets) if isinstance(told, str) else ""
    is_device = grant_type == DEVICE_CODE_GRANT
    if is_device and code in ("authorization_pending", "slow_down"):
        return StillPending(is_too_fast=code == "slow_down")
    if code in _GRANT_ENDED or (is_device and code in _DEVICE_ENDED):
        return GrantRefused(code, description)
    told = f"{code}: {description}" if description else code
    cure = _cure(code, answer.status)
    if cure is None:
        return IssuerUnavailable(f"The issuer {answer.host} refuses the request ({for_people(told, secrets)}).")
    refused = misconfigured(identity, f"The issuer refuses client '{client_id}' ({told})", cure)
    refused.code = code
    return refused


def _cure(code: str, status: int) -> str | None:
    """Return what to change when a code means that the configuration is wrong; None if it does not mean that."""
    if code == "unauthorized_client":  # Keycloak says this with 401 for a wrong secret
        return "check client_secret" if status == 401 else "choose a grant that the client may use"
    return {
        "invalid_client": "check client_id and client_secret",
        "unsupported_grant_type": "choose another grant",
        "invalid_scope": "check scope",
    }.get(code)


def _transient(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"The issuer {answer.host} sends us elsewhere (status {answer.status}), which is not followed."
    if answer.status == 429:
        return f"The issuer {answer.host} asks for fewer requests (status 429)."
    return f"The issuer {answer.host} answers with status {answer.status}."
