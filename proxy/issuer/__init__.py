"""The issuer: who turns grants into tokens, behind four endpoints (RFC 6749, 7009, 8414, 8628).

Every answer has one of three outcomes, told apart by the RFC's codes and never by their descriptions (token-life 3):
a token set · transient (IssuerUnavailable) · fatal, for the grant (GrantRefused) or the client (IdentityMisconfigured).

    answer ◄── refusal ◄── calls ◄── metadata ◄── issuer ──► client

ID tokens are neither asked for nor looked at: who signed in is the issuer's and the upstream's business.
"""

from proxy.issuer.answer import for_people
from proxy.issuer.client import digest, revealed
from proxy.issuer.issuer import DeviceAuthorization, Issuer, issuer_name
from proxy.issuer.refusal import DEVICE_CODE_GRANT, StillPending

__all__ = [
    "DEVICE_CODE_GRANT",
    "DeviceAuthorization",
    "Issuer",
    "StillPending",
    "digest",
    "for_people",
    "issuer_name",
    "revealed",
]
