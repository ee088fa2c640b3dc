"""Signing: the realm's key pair, and the claims of the three kinds of token, in Keycloak's shape."""

import base64
import secrets
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, RSAKey

from proxy.demo.realm import Client, Person, scope_text
from proxy.demo.sessions import Refusal, Session

Claims = dict[str, Any]  # Any: a JWT's claims are JSON


class Mint:
    """Signs access tokens with RS256 and refresh tokens with a key that nobody else has (HS512, as Keycloak)."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._keys = [_new_key()]
        self._refresh_key = OctKey.import_key(secrets.token_bytes(64))

    def rotate_key(self, *, forget: bool = False) -> None:
        """Sign with a new key from now on; the old ones stay in the JWKS unless `forget`."""
        self._keys = [_new_key(), *([] if forget else self._keys)]

    def jwks(self) -> Claims:
        """Return the JWK set (RFC 7517 5), newest key first."""
        return dict(KeySet([*self._keys]).as_dict(private=False))

    def public_key(self) -> str:
        """Return the newest key as Keycloak's realm document shows it: base64 of the DER SubjectPublicKeyInfo."""
        return base64.b64encode(self._keys[0].as_der(private=False)).decode("ascii")

    def sign(self, claims: Claims) -> str:
        key = self._keys[0]
        return jwt.encode({"alg": "RS256", "kid": key.kid}, {"iss": self._issuer, "jti": _jti(), **claims}, key)

    def read_access(self, token: str) -> Claims | None:
        """Return the claims of an access token of ours, whatever its expiry; None if it is not ours."""
        try:
            return dict(jwt.decode(token, KeySet([*self._keys]), algorithms=["RS256"]).claims)
        except (JoseError, ValueError):
            return None

    def sign_refresh(self, claims: Claims) -> tuple[str, str]:
        """Return a refresh token and its `jti`."""
        jti = _jti()
        whole = {"iss": self._issuer, "aud": self._issuer, "jti": jti, **claims}
        return jwt.encode({"alg": "HS512"}, whole, self._refresh_key, algorithms=["HS512"]), jti

    def read_refresh(self, token: str, now: float) -> Claims:
        """Return the claims of a refresh token of ours. Raises Refusal."""
        try:
            claims = dict(jwt.decode(token, self._refresh_key, algorithms=["HS512"]).claims)
        except (JoseError, ValueError):
            raise Refusal("invalid_grant", "Invalid refresh token") from None
        if "exp" in claims and claims["exp"] <= now:
            raise Refusal("invalid_grant", "Token is not active")
        return claims


def access_claims(client: Client, person: Person | None, scopes: tuple[str, ...], sid: str | None) -> Claims:
    """Return what an access token says beside its times; `person` None is the client's service account."""
    username = person.username if person else f"service-account-{client.client_id}"
    said: Claims = {
        "typ": "Bearer",
        "azp": client.client_id,
        "aud": [client.audience, "account"],
        "sub": subject(username),
        "scope": scope_text(scopes),
        "preferred_username": username,
    }
    if sid is not None:
        said["sid"] = sid
    if "roles" in scopes:
        said["realm_access"] = {"roles": list(person.roles) if person else ["default-roles-demo"]}
    if person is not None:
        if "profile" in scopes:
            said |= {"name": person.full_name, "groups": list(person.groups)}
        if "email" in scopes:
            said |= {"email": person.email, "email_verified": True}
    return said


def refresh_claims(session: Session) -> Claims:
    """Return what a refresh token says beside its times; an offline one has no `exp` and names its kind."""
    return {
        "typ": "Offline" if session.is_offline else "Refresh",
        "azp": session.client_id,
        "sub": subject(session.username),
        "sid": session.sid,
        "scope": scope_text(session.scopes),
    }


def subject(username: str) -> str:
    """Return a stable `sub`, so that a renewal names the person that the sign-in named."""
    return f"demo-{username}"


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)


def _jti() -> str:
    return secrets.token_hex(16)
