"""Sign-ins that a person started on the page: at most one at a time for an identity, with what there is to show of it.

Nothing here starts by itself: `begin` is called for the button alone, because whoever confirms a stranger's code signs
the stranger in (S40). The device code never leaves the grant; link and user code are what a person needs to see.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured, IssuerUnavailable, defect
from proxy.events import Emit, Failed
from proxy.grants.device_code import DevicePrompt
from proxy.news import News
from proxy.tasks import Tasks
from proxy.tokens import TokenSet

_SENTENCES: Mapping[str, str] = {
    "access_denied": "The sign-in was denied at the issuer. Nothing has changed.",
    "expired_token": "The time for this sign-in ran out before somebody confirmed it. Start again for a new one.",
    "invalid_grant": "The issuer says that this sign-in is not good, or no longer. Nothing has changed; start again.",
    "different_user_authenticated": "Somebody else is signed in at the issuer in this browser. Sign out there, or use "
    "a private window, and start again.",
    "temporarily_unavailable": "The issuer is busy. Start again in a minute.",
    "server_error": "Something went wrong at the issuer. Start again in a minute.",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in, under way or ended."""

    state: str
    """`starting`, `waiting`, `signed-in` or `failed`."""
    is_offline: bool
    prompt: DevicePrompt | None = None
    """What to do at the issuer, by device code."""
    link: str | None = None
    """Where to go on, by authorization code."""
    sentence: str = ""
    """How it ended."""
    code: str = ""
    """Why it failed: the wire's `error`, `issuer-unavailable`, `identity-misconfigured`, `cancelled` or `other`."""

    @property
    def is_over(self) -> bool:
        return self.state in ("signed-in", "failed")


Show = Callable[[DevicePrompt], None]
Open = Callable[[str], None]
SignIn = Callable[[str, bool, Show, Open], Awaitable[TokenSet]]
"""Signs in by (identity, is_offline, show, open): runs the grant to its end and puts the new set to use."""


class Attempts:
    """Starts, shows and ends them."""

    def __init__(
        self,
        sign_in: SignIn,
        *,
        username: Callable[[str], str | None],
        ended: Callable[[str, Attempt], None],
        news: News,
        emit: Emit,
    ) -> None:
        """Take `username`, which tells who is signed in as an identity, and `ended`, which is told of each end.

        `news` is told of each step.
        """
        self._news = news
        self._sign_in = sign_in
        self._username = username
        self._ended = ended
        self._emit = emit
        self._attempts: dict[str, Attempt] = {}
        self._tasks = Tasks()
        self._cancel: dict[str, Callable[[], bool]] = {}

    def of(self, name: str) -> Attempt | None:
        """Return the identity's attempt, the last one if none is under way."""
        return self._attempts.get(name)

    def begin(self, name: str, *, is_offline: bool) -> None:
        """Start a sign-in, unless one is under way."""
        attempt = self._attempts.get(name)
        if attempt is not None and not attempt.is_over:
            return
        self._put(name, Attempt("starting", is_offline))
        self._cancel[name] = self._tasks.start(self._run(name, is_offline), name=f"sign-in of {name}").cancel

    def cancel(self, name: str) -> None:
        """End the attempt that is under way; another may begin at once."""
        attempt = self._attempts.get(name)
        if attempt is not None and not attempt.is_over:
            self._cancel.pop(name)()
            self._put(name, replace(attempt, state="failed", code="cancelled", sentence="The sign-in was cancelled."))

    def forget(self, name: str) -> None:
        """Show nothing of an attempt that is over, because something newer has happened."""
        attempt = self._attempts.get(name)
        if attempt is not None and attempt.is_over:
            del self._attempts[name]
            self._news.tell()

    async def close(self) -> None:
        await self._tasks.close()

    async def _run(self, name: str, is_offline: bool) -> None:
        before = self._username(name)

        def update(**changes: object) -> None:
            self._put(name, replace(self._attempts[name], state="waiting", **changes))  # type: ignore[arg-type]  # ours

        try:
            fresh = await self._sign_in(
                name, is_offline, lambda prompt: update(prompt=prompt), lambda url: update(link=url)
            )
        except BearerproxyError as error:
            code, sentence = told(error)
            over = Attempt("failed", is_offline, sentence=sentence, code=code)
        except Exception as error:  # noqa: BLE001 - told, and shown as ours
            self._emit(Failed(f"sign-in of {name}", defect(error)))
            over = Attempt(
                "failed", is_offline, sentence="It failed inside bearerproxy; the log says more.", code="other"
            )
        else:
            over = Attempt("signed-in", is_offline, sentence=welcome(fresh, before))
        self._put(name, over)

    def _put(self, name: str, attempt: Attempt) -> None:
        self._attempts[name] = attempt
        self._news.tell()
        if attempt.is_over:
            self._ended(name, attempt)


def told(error: BearerproxyError) -> tuple[str, str]:
    """Return why a sign-in failed, as a code and as a sentence for a person."""
    if isinstance(error, GrantRefused):
        return error.code, _SENTENCES.get(error.code, f"The issuer refuses the sign-in: {error}.")
    if isinstance(error, IssuerUnavailable):
        return error.kind, f"The issuer cannot be reached: {error.detail}"
    if isinstance(error, IdentityMisconfigured):
        return error.kind, error.detail
    return "other", str(error)


def welcome(fresh: TokenSet, before: str | None) -> str:
    """Return what to say to who has signed in; `before` is who was signed in until now."""
    who = fresh.username
    if who is None:
        return "You are signed in."
    if before is not None and before != who:
        return (
            f"You are signed in as {who}; until now it was {before}. Is that not who you meant? Sign out and in again."
        )
    return f"You are signed in as {who}."
