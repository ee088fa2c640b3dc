"""Requests that wait for a sign-in, and how often a person is called for it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from proxy.clock import ManualClock, settle
from proxy.errors import SignInRequired
from proxy.events import Event, SignedIn, SignInAwaited
from proxy.summons import QUIET_SECONDS, HeldSource, Summons
from proxy.tokens import TokenSet

TOKEN = TokenSet("canary", 2e9, 0.0, client_id="c", grant="device_code")


@dataclass
class Scene:
    """A summons, the source behind it, and what a person would see."""

    clock: ManualClock = field(default_factory=ManualClock)
    calls: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    held: TokenSet | None = None

    def __post_init__(self) -> None:
        self.summons = Summons(
            page=lambda name: f"http://localhost:8400/-/login/{name}",
            call=lambda *call: self.calls.append(call),
            seconds=50.0,
            clock=self.clock,
            emit=self.events.append,
        )
        self.source = HeldSource("me", self, self.summons)

    def current(self) -> TokenSet | None:
        return self.held

    async def token(self) -> TokenSet:
        if self.held is None:
            raise SignInRequired("Not signed in as 'me'.", login="me")
        return self.held

    async def fresh(self, share: float) -> TokenSet:
        return await self.token()

    async def reject(self, rejected: TokenSet, *, upstream: str) -> TokenSet | None:
        return None

    def request(self) -> "asyncio.Task[TokenSet]":
        return asyncio.get_running_loop().create_task(self.source.token())

    def sign_in(self) -> None:
        self.held = TOKEN
        self.summons(SignedIn("me", "ada", is_offline=False))


async def test_a_request_waits_for_the_person_and_goes_on() -> None:
    scene = Scene()
    request = scene.request()
    await settle()
    assert not request.done()
    assert scene.calls == [("me", "http://localhost:8400/-/login/me")]
    assert [type(event) for event in scene.events] == [SignInAwaited]

    scene.sign_in()

    assert await asyncio.wait_for(request, 1) is TOKEN


async def test_nobody_waits_who_has_a_token() -> None:
    scene = Scene(held=TOKEN)

    assert await scene.source.token() is TOKEN
    assert scene.source.current() is TOKEN
    assert scene.calls == []


async def test_it_waits_for_so_long_and_then_says_why() -> None:
    scene = Scene()
    request = scene.request()
    await scene.clock.advance(49.9)
    assert not request.done()

    await scene.clock.advance(0.2)

    with pytest.raises(SignInRequired, match="Not signed in"):
        await request


async def test_a_sign_in_of_another_identity_lets_nobody_go() -> None:
    scene = Scene()
    request = scene.request()
    await settle()
    scene.summons(SignedIn("you", "bob", is_offline=False))
    await settle()

    assert not request.done()
    request.cancel()


async def test_many_requests_open_one_window() -> None:
    scene = Scene()
    requests = [scene.request() for _ in range(20)]
    await settle()
    assert len(scene.calls) == 1

    scene.sign_in()

    assert await asyncio.gather(*requests) == [TOKEN] * 20


async def test_nothing_opens_again_for_ten_minutes() -> None:
    scene = Scene()
    for _ in range(5):
        request = scene.request()
        await scene.clock.advance(60)
        with pytest.raises(SignInRequired):
            await request
    assert len(scene.calls) == 1

    await scene.clock.advance(QUIET_SECONDS)
    request = scene.request()
    await settle()
    assert len(scene.calls) == 2
    request.cancel()


async def test_nothing_opens_while_the_page_is_open_and_for_ten_minutes_after() -> None:
    scene = Scene()
    with scene.summons.watched("me"):
        await scene.clock.advance(QUIET_SECONDS * 3)
        first = scene.request()
        await settle()
    second = scene.request()
    await settle()
    assert scene.calls == []

    first.cancel()
    second.cancel()
    await scene.clock.advance(QUIET_SECONDS)
    third = scene.request()
    await settle()
    assert len(scene.calls) == 1
    third.cancel()


async def test_a_no_lets_the_requests_go_at_once() -> None:
    scene = Scene()
    request = scene.request()
    await settle()

    scene.summons.denied("me")

    with pytest.raises(SignInRequired):
        await asyncio.wait_for(request, 1)
    again = scene.request()
    await settle()
    assert len(scene.calls) == 1, "a person who said no is not asked again at once"
    again.cancel()


async def test_after_a_sign_in_the_next_end_may_call_again() -> None:
    scene = Scene()
    request = scene.request()
    await settle()
    scene.sign_in()
    await request
    scene.held = None

    request = scene.request()
    await settle()
    assert len(scene.calls) == 2
    request.cancel()


async def test_the_end_of_the_proxy_lets_everybody_go() -> None:
    scene = Scene()
    request = scene.request()
    await settle()

    scene.summons.close()

    with pytest.raises(SignInRequired):
        await asyncio.wait_for(request, 1)


async def test_a_caller_that_hangs_up_leaves_nothing_behind() -> None:
    scene = Scene()
    request = scene.request()
    await settle()
    before = len(asyncio.all_tasks())
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await settle()

    assert len(asyncio.all_tasks()) < before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_upload_waits_too() -> None:
    scene = Scene()
    request = asyncio.get_running_loop().create_task(scene.source.fresh(0.5))
    await settle()
    scene.sign_in()

    assert await asyncio.wait_for(request, 1) is TOKEN
