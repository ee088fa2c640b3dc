"""What the issuer remembers: sign-ins, and the codes that lead to one.

Theory of operation. A *session* is one sign-in of one person with one client. Each refresh token belongs to a session
and carries its `sid` and a `jti` of its own. Without rotation every refresh token of a living session works; with
rotation only the latest one does, and an older one that comes back ends the client's part of the session, so that the
newest token is dead as well (Keycloak 26: "Maximum allowed refresh token reuse exceeded", then "Session doesn't have
required client"). A session without the scope `offline_access` ends after `sso_idle_seconds` without a refresh and
after `sso_max_seconds` in any case; an offline one only by its own, longer, idle limit.
"""

import secrets
from dataclasses import dataclass, field
from enum import Enum, auto

from proxy.clock import Clock
from proxy.demo.realm import Lifetimes

_USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 6.1: no vowels, so no words
_SLOW_DOWN_SECONDS = 5  # RFC 8628 3.5: "the interval MUST be increased by 5 seconds"
_TIMER_GRACE_SECONDS = 0.05  # timers of a loaded machine, and floating point


class Refusal(Exception):
    """An answer by RFC 6749 5.2: status, `error`, `error_description`."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status


@dataclass(slots=True)
class Session:
    """One sign-in."""

    sid: str
    username: str
    client_id: str
    scopes: tuple[str, ...]
    started: float
    last_used: float
    latest: str = ""
    """`jti` of the newest refresh token."""
    has_client: bool = True
    """False once a rotated refresh token came back: nothing can be refreshed any more."""

    @property
    def is_offline(self) -> bool:
        return "offline_access" in self.scopes


class Sessions:
    """All living sign-ins."""

    def __init__(self, clock: Clock, lifetimes: Lifetimes) -> None:
        self._clock = clock
        self._lifetimes = lifetimes
        self._by_sid: dict[str, Session] = {}

    def open(self, username: str, client_id: str, scopes: tuple[str, ...]) -> Session:
        now = self._clock.wall()
        session = Session(secrets.token_hex(16), username, client_id, scopes, now, now)
        self._by_sid[session.sid] = session
        return session

    def end(self, sid: str) -> None:
        self._by_sid.pop(sid, None)

    def end_all(self) -> None:
        self._by_sid.clear()

    def find(self, sid: str) -> Session | None:
        """Return the session if it is alive."""
        session = self._by_sid.get(sid)
        return session if session is not None and self._clock.wall() < self.ends_at(session) else None

    def ends_at(self, session: Session) -> float:
        """Return the moment (seconds since the epoch) at which the session ends if it is not used."""
        if session.is_offline:
            return session.last_used + self._lifetimes.offline_idle_seconds
        return min(
            session.last_used + self._lifetimes.sso_idle_seconds,
            session.started + self._lifetimes.sso_max_seconds,
        )

    def use(self, sid: str, jti: str, *, rotation: bool) -> Session:
        """Return the session that a refresh token opens, and note the use. Raises Refusal."""
        session = self.find(sid)
        if session is None:
            is_offline = sid in self._by_sid and self._by_sid[sid].is_offline
            self.end(sid)
            raise Refusal("invalid_grant", "Offline session not active" if is_offline else "Session not active")
        if not session.has_client:
            raise Refusal("invalid_grant", "Session doesn't have required client")
        if rotation and jti != session.latest:
            session.has_client = False
            raise Refusal("invalid_grant", "Maximum allowed refresh token reuse exceeded")
        session.last_used = self._clock.wall()
        return session


class Decision(Enum):
    """What the person said about a device code."""

    PENDING = auto()
    ALLOWED = auto()
    DENIED = auto()


@dataclass(slots=True)
class DeviceCode:
    """One device authorization (RFC 8628 3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    client_id: str
    scopes: tuple[str, ...]
    expires: float
    """Moment of `clock.boot()`."""
    interval: float
    challenge: str | None = None
    """PKCE challenge of the device authorization request, where the client sends one."""
    decision: Decision = Decision.PENDING
    username: str = ""
    polled: float | None = None


class DeviceCodes:
    """Device authorizations that have not been turned into tokens yet."""

    def __init__(self, clock: Clock, lifetimes: Lifetimes) -> None:
        self._clock = clock
        self._lifetimes = lifetimes
        self._open: dict[str, DeviceCode] = {}

    def issue(self, client_id: str, scopes: tuple[str, ...], challenge: str | None) -> DeviceCode:
        letters = [secrets.choice(_USER_CODE_LETTERS) for _ in range(8)]
        code = DeviceCode(
            secrets.token_urlsafe(32),
            "".join([*letters[:4], "-", *letters[4:]]),
            client_id,
            scopes,
            self._clock.boot() + self._lifetimes.device_code_seconds,
            self._lifetimes.device_interval_seconds,
            challenge,
        )
        self._open[code.device_code] = code
        return code

    def by_user_code(self, typed: str) -> DeviceCode | None:
        """Return the undecided code that a person typed; case and punctuation do not matter (RFC 8628 6.1)."""
        letters = "".join(letter for letter in typed.upper() if letter.isalnum())
        for code in self._open.values():
            is_waiting = code.decision is Decision.PENDING and self._clock.boot() < code.expires
            if is_waiting and code.user_code.replace("-", "") == letters:
                return code
        return None

    def poll(self, device_code: str, client_id: str) -> DeviceCode:
        """Return the allowed code, which is used up by that. Raises Refusal as RFC 8628 3.5 says."""
        code = self._open.get(device_code)
        if code is None or code.client_id != client_id:
            raise Refusal("invalid_grant", "Device code not valid")
        now = self._clock.boot()
        if now >= code.expires:
            raise Refusal("expired_token", "Device code is expired")
        if code.polled is not None and now - code.polled < code.interval - _TIMER_GRACE_SECONDS:
            code.polled = now
            code.interval += _SLOW_DOWN_SECONDS
            raise Refusal("slow_down", "Slow down")
        code.polled = now
        if code.decision is Decision.PENDING:
            raise Refusal("authorization_pending", "The authorization request is still pending")
        del self._open[device_code]
        if code.decision is Decision.DENIED:
            raise Refusal("access_denied", "The end user denied the authorization request")
        return code


@dataclass(slots=True)
class AuthorizationRequest:
    """A validated authorization request (RFC 6749 4.1.1, RFC 7636 4.3) and, once allowed, its code's session."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str | None
    challenge: str | None
    nonce: str | None
    expires: float
    """Moment of `clock.boot()`."""
    sid: str = ""
    is_used: bool = False


class AuthorizationCodes:
    """Authorization requests that wait for a person, and codes that wait for their exchange."""

    _PERSON_SECONDS = 1800

    def __init__(self, clock: Clock, lifetimes: Lifetimes, sessions: Sessions) -> None:
        self._clock = clock
        self._lifetimes = lifetimes
        self._sessions = sessions
        self._waiting: dict[str, AuthorizationRequest] = {}
        self._codes: dict[str, AuthorizationRequest] = {}

    def wait(self, request: AuthorizationRequest) -> str:
        """Keep a request for a person to decide; return the key that the page's form carries."""
        key = secrets.token_urlsafe(16)
        request.expires = self._clock.boot() + self._PERSON_SECONDS
        self._waiting[key] = request
        return key

    def waiting(self, key: str) -> AuthorizationRequest | None:
        request = self._waiting.get(key)
        return request if request is not None and self._clock.boot() < request.expires else None

    def decide(self, key: str, username: str | None) -> str | None:
        """Return the authorization code for `username`, or None if the person denied; the key is used up."""
        request = self._waiting.pop(key)
        if username is None:
            return None
        request.sid = self._sessions.open(username, request.client_id, request.scopes).sid
        request.expires = self._clock.boot() + self._lifetimes.authorization_code_seconds
        code = secrets.token_urlsafe(32)
        self._codes[code] = request
        return code

    def exchange(self, code: str, client_id: str, redirect_uri: str) -> AuthorizationRequest:
        """Return the request behind a code, which is used up. Raises Refusal; a second use ends the session."""
        request = self._codes.get(code)
        if request is None or request.client_id != client_id:
            raise Refusal("invalid_grant", "Code not valid")
        if request.is_used:
            # RFC 6749 4.1.2: > the authorization server MUST deny the request and SHOULD revoke (when possible)
            # > all tokens previously issued based on that authorization code
            self._sessions.end(request.sid)
            raise Refusal("invalid_grant", "Code not valid")
        request.is_used = True
        if self._clock.boot() >= request.expires:
            self._sessions.end(request.sid)
            raise Refusal("invalid_grant", "Code is expired")
        if redirect_uri != request.redirect_uri:
            self._sessions.end(request.sid)
            raise Refusal("invalid_grant", "Incorrect redirect_uri")
        return request
