"""Sign-ins that are started on the page: one at a time, each end with its sentence."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from proxy.attempts import Attempt, Attempts, Open, Show, told, welcome
from proxy.clock import settle
from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured, IssuerUnavailable, StoreError
from proxy.events import Event, Failed
from proxy.grants.device_code import DevicePrompt
from proxy.news import News
from proxy.tokens import TokenSet
from tests.scripted_issuer import jwt

PROMPT = DevicePrompt("ABCD", "https://auth.example.org/device", None, 1.0)


def signed_in_as(name: str | None) -> TokenSet:
    said = {} if name is None else {"preferred_username": name}
    return TokenSet(jwt(**said), 1.0, 0.0, client_id="client-tools", grant="device_code")


@dataclass
class Issuing:
    """A grant that goes where the test leads it."""

    starts: list[tuple[str, bool]] = field(default_factory=list)
    outcome: "asyncio.Future[TokenSet]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    show: Callable[[Show, Open], None] = lambda show, _: show(PROMPT)
    ends: list[Attempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    news: News = field(default_factory=News)
    username: str | None = None

    async def sign_in(self, name: str, is_offline: bool, show: Show, open_page: Open) -> TokenSet:
        self.starts.append((name, is_offline))
        await settle(2)
        self.show(show, open_page)
        return await self.outcome

    def attempts(self) -> Attempts:
        return Attempts(
            self.sign_in,
            username=lambda _: self.username,
            ended=lambda _, attempt: self.ends.append(attempt),
            news=self.news,
            emit=self.events.append,
        )


async def test_an_attempt_begins_waits_for_the_person_and_ends() -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    attempts.begin("me", is_offline=True)
    assert attempts.of("me") == Attempt("starting", is_offline=True)

    await settle()
    assert attempts.of("me") == Attempt("waiting", is_offline=True, prompt=PROMPT)

    told_so_far = issuing.news.count
    issuing.outcome.set_result(signed_in_as("ada"))
    await settle()
    over = attempts.of("me")
    assert over == Attempt("signed-in", is_offline=True, sentence="You are signed in as ada.")
    assert issuing.ends == [over]
    assert issuing.news.count > told_so_far
    await attempts.close()


async def test_the_link_of_an_authorization_request_is_shown() -> None:
    issuing = Issuing(show=lambda _, open_page: open_page("https://auth.example.org/auth?x"))
    attempts = issuing.attempts()
    attempts.begin("me", is_offline=False)
    await settle()

    assert attempts.of("me") == Attempt("waiting", is_offline=False, link="https://auth.example.org/auth?x")
    await attempts.close()


async def test_a_second_button_press_starts_no_second_sign_in() -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    attempts.begin("me", is_offline=False)
    attempts.begin("me", is_offline=True)
    await settle()

    assert issuing.starts == [("me", False)]
    await attempts.close()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GrantRefused("access_denied"), "access_denied", "denied at the issuer"),
        (GrantRefused("expired_token"), "expired_token", "ran out before somebody confirmed it"),
        (GrantRefused("different_user_authenticated"), "different_user_authenticated", "Somebody else is signed in"),
        (GrantRefused("odd", "Because."), "odd", "The issuer refuses the sign-in: odd: Because."),
        (IssuerUnavailable("no route to auth."), "issuer-unavailable", "The issuer cannot be reached: no route"),
        (IdentityMisconfigured("invalid_client."), "identity-misconfigured", "invalid_client."),
        (StoreError("The folder is full."), "other", "The folder is full."),
    ],
)
async def test_each_end_has_its_sentence(error: BearerproxyError, code: str, words: str) -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    issuing.outcome.set_exception(error)
    attempts.begin("me", is_offline=False)
    await settle()

    over = attempts.of("me")
    assert over is not None
    assert (over.state, over.code) == ("failed", code)
    assert words in over.sentence
    assert told(error) == (code, over.sentence)
    await attempts.close()


async def test_a_defect_of_ours_is_told_to_the_log_and_not_to_the_page() -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    issuing.outcome.set_exception(ValueError("canary-secret"))
    attempts.begin("me", is_offline=False)
    await settle()

    over = attempts.of("me")
    assert over is not None
    assert "canary" not in over.sentence
    assert [type(event) for event in issuing.events] == [Failed]
    await attempts.close()


async def test_cancelled_it_can_begin_again_at_once() -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    attempts.begin("me", is_offline=False)
    await settle()
    attempts.cancel("me")
    attempts.begin("me", is_offline=False)
    await settle()

    assert [one.code for one in issuing.ends] == ["cancelled"]
    assert len(issuing.starts) == 2
    await attempts.close()


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        ("ada", None, "You are signed in as ada."),
        ("ada", "ada", "You are signed in as ada."),
        ("bob", "ada", "You are signed in as bob; until now it was ada."),
        (None, "ada", "You are signed in."),
    ],
)
def test_somebody_else_than_before_is_said(now: str | None, before: str | None, words: str) -> None:
    assert welcome(signed_in_as(now), before).startswith(words)


async def test_what_is_over_can_be_forgotten_and_what_is_not_cannot() -> None:
    issuing = Issuing()
    attempts = issuing.attempts()
    attempts.begin("me", is_offline=False)
    attempts.forget("me")
    assert attempts.of("me") is not None

    attempts.cancel("me")
    attempts.forget("me")
    assert attempts.of("me") is None
    await attempts.close()
