"""Tokens: what they are for, and whether each service takes them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.doctor.finding import Finding
from proxy.doctor.issuers import place
from proxy.errors import BearerproxyError, IssuerUnavailable, SignInRequired
from proxy.identities import Identity
from proxy.sign_in import was_offline_granted
from proxy.tokens import TokenSet, claims
from proxy.upstreams import Upstream

OFFLINE = "offline_access"


@dataclass(frozen=True, slots=True)
class Tried:
    """How a service answered a request with our token, and the same one with a made-up token."""

    path: str
    status: int
    made_up_status: int
    challenge: str = ""
    """WWW-Authenticate of the first answer."""
    is_about_permission: bool = False
    """Whether the text of a 401 says that the token is good and a permission is missing (`token_fault`)."""


def sign_in(identity: Identity, outcome: TokenSet | BearerproxyError) -> Finding:
    """Judge whether there is a valid token."""
    about = place(identity)
    match outcome:
        case TokenSet():
            who = f" as {outcome.username}" if outcome.username else ""
            return Finding.ok("sign-in", about, f"There is a valid token{who}, for {_audience_words(outcome)}.")
        case SignInRequired():
            return Finding.wrong("sign-in", about, "Nobody is signed in.", f"Run: bearerproxy login {identity.name}")
        case IssuerUnavailable():
            return Finding.wrong("sign-in", about, str(outcome), "Try again when the issuer is back.")
    text, _, cure = str(outcome).partition("; in ")
    return Finding.wrong("sign-in", about, text, f"In {cure}" if cure else "Correct the identity's settings.")


def scopes(identity: Identity, token_set: TokenSet) -> Finding | None:
    """Judge whether what was asked for was granted; None if nothing was asked for or the issuer did not tell.

    Issuers drop a scope that they do not know or that is not the client's without a word (RFC 6749 3.3).
    """
    about = place(identity)
    asked = (identity.scope or "").split()
    if OFFLINE in asked and token_set.refresh_token is not None and not was_offline_granted(token_set):
        return Finding.wrong(
            "scope",
            about,
            f"offline_access was asked for and not given to client {token_set.client_id}, so the sign-in ends with "
            "its session.",
            "Ask the issuer's operator to allow that scope for the client, or name the client that may (client_id).",
        )
    said = claims(token_set.access_token)
    granted = str(said.get("scope") or token_set.scope or "").split()
    if not asked or not granted:
        return None
    missing = [one for one in asked if one not in granted and not _is_within(one, said, token_set)]
    if missing:
        return Finding.wrong(
            "scope",
            about,
            f"Asked for and not granted: {', '.join(missing)}.",
            "Correct scope, ask the issuer's operator to allow it for the client, then sign in again.",
        )
    return Finding.ok("scope", about, f"Everything that was asked for was granted: {', '.join(asked)}.")


def audience(identity: Identity, token_set: TokenSet) -> Finding | None:
    """Judge whether the token is for whom it was asked for (`audience` or `resource` in extra); None if for nobody."""
    asked = [value for name, value in identity.extra if name in ("audience", "resource")]
    audiences = _audiences(token_set)
    missing = [one for one in asked if one not in audiences]
    if not asked or not audiences:
        return None
    about = place(identity)
    if missing:
        return Finding.wrong(
            "audience",
            about,
            f"The token is for {_audience_words(token_set)} and not for {', '.join(missing)}.",
            "Correct audience or resource in extra, or ask the issuer's operator to allow it for the client.",
        )
    return Finding.ok("audience", about, f"The token is for {_audience_words(token_set)}, as was asked.")


def call(upstream: Upstream, token_set: TokenSet, tried: Tried) -> Finding:
    """Judge whether a service takes the token."""
    about, status = f"[upstream.{upstream.name}]", tried.status
    asked = f"GET {tried.path}"
    if status == 401 and not tried.is_about_permission:
        wanted = _wanted_scope(tried.challenge)
        who = f"client {token_set.client_id}, for {_audience_words(token_set)}, scope {token_set.scope or 'unknown'}"
        return Finding.wrong(
            "call",
            about,
            f"{asked} answers 401: the service refuses the token ({who}).",
            f"Add {wanted} to scope of [identity.{upstream.identity}] and sign in again."
            if wanted
            else "Ask the service's operator which audience, scope and issuer it accepts; compare with these.",
        )
    if status in (401, 403):
        return Finding.wrong(
            "call",
            about,
            f"{asked} answers {status}: the token is accepted, but {token_set.username or 'this user'} lacks a "
            "permission.",
            "Ask the service's operator for the role.",
        )
    if status >= 500:
        return Finding.wrong(
            "call", about, f"{asked} answers {status}.", "The service is in trouble; tell its operator."
        )
    if tried.made_up_status in (401, 403):
        return Finding.ok("call", about, f"{asked} answers {status}, and {tried.made_up_status} to a made-up token.")
    return Finding.note(
        "call",
        about,
        f"{asked} answers {status} to a made-up token too, so it does not show whether yours is taken.",
        f"Set probe of [upstream.{upstream.name}] to a path that asks for a token.",
    )


def _audiences(token_set: TokenSet) -> list[str]:
    said = claims(token_set.access_token).get("aud")
    return [str(one) for one in said] if isinstance(said, list) else [str(said)] if said else []


def _audience_words(token_set: TokenSet) -> str:
    audiences = _audiences(token_set)
    return f"audience {', '.join(audiences)}" if audiences else "no audience that it names"


def _is_within(scope: str, said: Mapping[str, Any], token_set: TokenSet) -> bool:
    """Return whether a scope is granted though its name is not repeated, as Keycloak does with some."""
    if scope == "roles":
        return "realm_access" in said or "resource_access" in said
    return scope == OFFLINE and was_offline_granted(token_set)


def _wanted_scope(challenge: str) -> str | None:
    """Return the scope that a challenge of RFC 6750 3.1 names."""
    if "insufficient_scope" not in challenge:
        return None
    _, found, rest = challenge.partition('scope="')
    text = rest.partition('"')[0]
    return text if found and text.isascii() and text.isprintable() and 0 < len(text) < 200 else None
