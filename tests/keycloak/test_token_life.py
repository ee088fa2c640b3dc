"""Rows of the table of token life that only a real issuer can show: what Keycloak really does (token-life 4 and 8)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest

from proxy.clock import SystemClock
from proxy.errors import IssuerUnavailable, SignInRequired
from proxy.events import Event, Failed, RenewalFailed, SignInEnded
from proxy.grants import device_code
from proxy.grants.device_code import DevicePrompt
from proxy.identities import Grant, Identity
from proxy.issuer import DeviceAuthorization, Issuer
from proxy.stores import MemoryStore
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet, claims
from proxy.upstreams import Upstream
from tests.journeys.house import Running, running
from tests.keycloak.person import Person
from tests.keycloak.server import Keycloak, Realm
from tests.keycloak.services import services
from tests.poll import eventually

pytestmark = pytest.mark.keycloak

CLIENT = "dotstat-app"
DATA = "/nsi/rest/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL?format=csv"


@dataclass
class SignedIn:
    """A person who is signed in at Keycloak, and the source that keeps them so."""

    realm: Realm
    source: TokenSource
    store: MemoryStore
    events: list[Event]
    first: TokenSet

    async def renewals(self, kind: str = "REFRESH_TOKEN") -> int:
        """Return how many renewals Keycloak saw; `kind` REFRESH_TOKEN_ERROR are those that it refused."""
        return len(await asyncio.to_thread(self.realm.events, kind, CLIENT))

    async def refusals(self) -> int:
        return await self.renewals("REFRESH_TOKEN_ERROR")

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def who(realm: Realm) -> Identity:
    return Identity(name="dotstat", client_id=CLIENT, grant=Grant.DEVICE_CODE, issuer=realm.issuer)


async def session(realm: Realm, username: str = "alice", **form: str) -> TokenSet:
    """Return the tokens of a new session: by password, so that no browser is needed for what comes after sign-in."""
    issuer = Issuer(who(realm), clock=SystemClock())
    try:
        form = {"grant_type": "password", "username": username, "password": f"pw-{username}", **form}
        return replace(await issuer.token_request(list(form.items())), epoch=1)
    finally:
        await issuer.close()


@asynccontextmanager
async def signed_in(
    realm: Realm, token_set: TokenSet | None = None, *, http: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[SignedIn]:
    clock, store, events = SystemClock(), MemoryStore(), list[Event]()
    first = token_set or await session(realm)
    assert await store.save("dotstat", first)
    issuer = Issuer(who(realm), clock=clock, http=http)
    source = TokenSource(who(realm), issuer=issuer, store=store, clock=clock, emit=events.append)
    await source.start()
    there = SignedIn(realm, source, store, events, first)
    try:
        yield there
    finally:
        await source.close()
        await issuer.close()
    assert there.told(Failed) == []


async def pause(seconds: float) -> None:
    """Let real time pass, where passing time is what the test is about."""
    await SystemClock().sleep(seconds)


@pytest.mark.parametrize("has_rotation", [True, False], ids=["rotation", "no rotation"])
async def test_t1_t11_one_renewal_for_each_life(keycloak: Keycloak, has_rotation: bool) -> None:
    """With reuse detection (T11) and without, and with no traffic at all: never a refusal."""
    realm = keycloak.fresh_realm({"accessTokenLifespan": 3, "revokeRefreshToken": has_rotation})
    async with signed_in(realm) as here:
        await pause(6)
        assert here.source.status().state == "ready"
        kept = await here.store.load("dotstat")
    assert kept is not None
    assert kept.refresh_token != here.first.refresh_token
    assert 2 <= await here.renewals() <= 4
    assert await here.refusals() == 0


REUSE: dict[str, tuple[dict[str, Any], str]] = {
    "reuse ends the session": ({"revokeRefreshToken": True, "refreshTokenMaxReuse": 0}, "sign-in-required"),
    "one reuse is allowed": ({"revokeRefreshToken": True, "refreshTokenMaxReuse": 1}, "ready"),
    "no rotation": ({"revokeRefreshToken": False}, "ready"),
}
"""What a realm makes of a refresh token that comes twice, and what a proxy is that had to send one."""


@pytest.mark.parametrize("reuse", REUSE)
async def test_t11_a_start_after_a_crash_between_answer_and_disk(keycloak: Keycloak, reuse: str) -> None:
    """What is stored is spent: one call, and a person is asked; a reuse that the realm allows closes the window."""
    settings, state = REUSE[reuse]
    realm = keycloak.fresh_realm(settings)
    before = await session(realm)
    form = {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": before.refresh_token or ""}
    assert (await asyncio.to_thread(realm.token, **form)).status_code == 200
    async with signed_in(realm, replace(before, expires_at=0.0)) as here:
        await eventually(lambda: here.source.status().state == state, 10, what=state)
        if state == "ready":
            assert await here.refusals() == 0
        else:
            await asked_for_nothing_more(here)


class Losing(httpx2.AsyncHTTPTransport):
    """A network that loses the answer to the first token request."""

    is_lost = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        if request.method == "POST" and not self.is_lost:
            self.is_lost = True
            await answer.aclose()
            raise httpx2.ReadTimeout("")
        return answer


@pytest.mark.parametrize("reuse", REUSE)
async def test_t12_an_answer_that_was_lost_on_its_way(keycloak: Keycloak, reuse: str) -> None:
    """Keycloak has renewed, and nobody heard: one more call with the same token, and no third."""
    settings, state = REUSE[reuse]
    realm = keycloak.fresh_realm(settings)
    before = replace(await session(realm), expires_at=0.0)
    async with signed_in(realm, before, http=Losing(trust_env=False)) as here:
        await eventually(lambda: here.source.status().state == state, 10, what=state)
        assert len(here.told(RenewalFailed)) == 1
        if state == "ready":
            assert (await here.renewals(), await here.refusals()) == (2, 0)
        else:
            assert await here.renewals() == 1
            await asked_for_nothing_more(here)


async def test_t10_an_offline_token_is_kept_beyond_its_idle_time(keycloak: Keycloak) -> None:
    """Idle time is 6 s, which Keycloak tells nobody: alice, whom the proxy keeps, is signed in after 8; bob is not."""
    realm = keycloak.fresh_realm({"offlineSessionIdleTimeout": 6, "accessTokenLifespan": 3})
    alice, bob = [await session(realm, name, scope="offline_access") for name in ("alice", "bob")]
    assert {(one.is_offline, one.refresh_expires_at) for one in (alice, bob)} == {(True, None)}
    async with signed_in(realm, alice) as here:
        await pause(8)
        assert here.source.status().state == "ready"
        assert await here.refusals() == 0
        async with signed_in(realm, replace(bob, expires_at=0.0)) as other:
            await eventually(lambda: other.source.status().state == "sign-in-required", what="the end of bob's session")


async def test_t17_an_operators_logout_ends_an_offline_token_too(keycloak: Keycloak) -> None:
    """Its session is still there, but Keycloak calls every token stale that is older than the logout."""
    realm = keycloak.fresh_realm({"accessTokenLifespan": 4})
    offline = await session(realm, scope="offline_access")
    async with signed_in(realm, offline) as here:
        await pause(1.1)  # it counts whole seconds
        await asyncio.to_thread(realm.log_out, "alice")
        await eventually(lambda: here.source.status().state == "sign-in-required", 10, what="the end")
        await asked_for_nothing_more(here)
    [ended] = here.told(SignInEnded)
    assert isinstance(ended, SignInEnded)
    assert "Stale token" in ended.reason


async def test_t10_an_idle_proxy_keeps_an_idle_session_alive(keycloak: Keycloak) -> None:
    """SSO idle is 6 s, nobody asks for 10: alice, whom the proxy keeps, is signed in; bob, whom nobody keeps, is not.

    Keycloak 26 gives a refresh token no grace beyond SSO idle.
    """
    realm = keycloak.fresh_realm({"ssoSessionIdleTimeout": 6, "accessTokenLifespan": 60})
    bob = await session(realm, "bob")
    async with signed_in(realm) as here:
        await pause(10)
        assert here.source.status().state == "ready"
        assert here.source.current() != here.first
        assert 2 <= await here.renewals() <= 6
        assert await here.refusals() == 0
        async with signed_in(realm, replace(bob, expires_at=0.0)) as other:
            await eventually(lambda: other.source.status().state == "sign-in-required", what="the end of bob's session")


async def test_t9_sso_max_ends_a_session_with_one_refused_call(keycloak: Keycloak) -> None:
    """No renewal helps: tokens get shorter towards the end, the last serves to its end, then a person is asked."""
    realm = keycloak.fresh_realm({"ssoSessionMaxLifespan": 8, "accessTokenLifespan": 4})
    async with signed_in(realm) as here:
        await eventually(lambda: here.source.status().state == "sign-in-required", 15, what="the end of the session")
        renewals = await here.renewals()
        assert await here.refusals() == 1
        await asked_for_nothing_more(here)
        assert await here.renewals() == renewals
    assert renewals <= 8
    [ended] = here.told(SignInEnded)
    assert isinstance(ended, SignInEnded)
    assert "invalid_grant" in ended.reason


async def asked_for_nothing_more(here: SignedIn) -> None:
    """A second of traffic after the end cost Keycloak nothing (T17)."""
    for _ in range(10):
        with pytest.raises(SignInRequired):
            await here.source.token()
        await pause(0.1)
    assert await here.refusals() == 1


ENDS: dict[str, Callable[[Realm], object]] = {
    "logged out by the operator": lambda realm: realm.log_out("alice"),
    "user disabled": lambda realm: realm.put_user("alice", enabled=False),
    "not before": lambda realm: realm.put(notBefore=int(SystemClock().wall()) + 1),
}


@pytest.mark.parametrize("end", ENDS)
async def test_t17_an_early_end_costs_one_refused_call(keycloak: Keycloak, end: str) -> None:
    """A38: whatever ended it, the token serves to its end, and then a person is asked; one call, no more (T9)."""
    realm = keycloak.fresh_realm({"accessTokenLifespan": 4})
    async with signed_in(realm) as here:
        await asyncio.to_thread(ENDS[end], realm)
        renewals = await here.renewals()
        await eventually(lambda: here.told(SignInEnded), 10, what="the refusal")
        assert here.source.status().state == "ready"
        await eventually(lambda: here.source.status().state == "sign-in-required", 10, what="the end of the token")
        await asked_for_nothing_more(here)
        assert await here.renewals() == renewals


async def test_t17_withdrawn_consent_ends_an_offline_token(keycloak: Keycloak) -> None:
    realm = keycloak.fresh_realm({"accessTokenLifespan": 3})
    offline = await session(realm, scope="offline_access")
    assert (offline.is_offline, offline.refresh_expires_at) == (True, None)
    async with signed_in(realm, offline) as here:
        await eventually(lambda: here.source.current() not in (None, here.first), 10, what="a renewal")
        await asyncio.to_thread(realm.withdraw, "alice", CLIENT)
        await eventually(lambda: here.source.status().state == "sign-in-required", 10, what="the end")
        await asked_for_nothing_more(here)


@asynccontextmanager
async def reading(here: SignedIn) -> AsyncIterator[Running]:
    """Run a proxy for the SDMX service that verifies Keycloak's tokens."""
    async with services(here.realm) as there:
        host, _, port = there.nsi.removeprefix("http://").partition(":")
        nsi = Upstream(name="nsi", scheme="http", host=host, port=int(port), mount="/nsi", identity="dotstat")
        async with running([nsi], sources={"dotstat": here.source}) as proxy:
            yield proxy


async def test_t18_new_keys_at_the_issuer_are_not_noticed(keycloak: Keycloak) -> None:
    """The relay looks at no signature: requests go on through Keycloak's change of keys."""
    realm = keycloak.fresh_realm({"accessTokenLifespan": 3})
    async with signed_in(realm) as here, reading(here) as proxy:
        await asyncio.to_thread(
            realm.add_key
        )  # before the service first looks at the keys, which it does once a minute
        statuses = []
        deadline = SystemClock().boot() + 6
        while SystemClock().boot() < deadline:
            statuses.append((await proxy.ask(DATA)).status)
            await pause(0.1)
        assert set(statuses) == {200}
        held = here.source.current() or await here.source.token()
        assert header(held.access_token) != header(here.first.access_token)
        assert await here.refusals() == 0


def header(token: str) -> object:
    """Return the key that signed a token."""
    return claims(f".{token.split('.', maxsplit=1)[0]}.")["kid"]


async def test_t2_t29_a_restart_of_the_issuer_in_the_middle_of_traffic(keycloak: Keycloak) -> None:
    """Renewals are due when Keycloak goes. Alice's token outlives the restart: none of her requests fails.

    Bob's does not: he is told when to come back. Both are served by themselves within 12 s of Keycloak's return.
    """
    realm = keycloak.fresh_realm({"accessTokenLifespan": 120})
    sets = [await session(realm, name) for name in ("alice", "bob")]
    alice = replace(sets[0], obtained_at=sets[0].obtained_at - 300)
    bob = replace(sets[1], expires_at=sets[1].obtained_at + 5)
    await asyncio.to_thread(keycloak.stop)  # by a kill it would lose sessions that are a moment old
    async with signed_in(realm, alice) as hers, signed_in(realm, bob) as his:
        restarting = asyncio.ensure_future(asyncio.to_thread(keycloak.start))
        answers: list[int | None] = []

        async def are_served() -> bool:
            hers_now = hers.source.current() or await hers.source.token()
            answers.append(await retry_after(his.source))
            return answers[-1] is None and hers_now.access_token != hers.first.access_token

        await eventually(lambda: restarting.done() or are_served(), 60, what="the issuer's return")
        await restarting
        await eventually(are_served, 12, what="the renewals after it")
        assert {hers.source.status().state, his.source.status().state} == {"ready"}
        assert {bool(answer) for answer in answers if answer is not None} == {True}
        assert hers.told(RenewalFailed)
        assert all(isinstance(one, RenewalFailed) and one.has_valid_token for one in hers.told(RenewalFailed))
        assert await hers.renewals() == 2
        assert await hers.refusals() == 0


async def retry_after(source: TokenSource) -> int | None:
    """Return None if there is a token, else the seconds of Retry-After, which are never left out."""
    try:
        _ = source.current() or await source.token()
    except IssuerUnavailable as error:
        return error.retry_after or 0
    return None


class Watched(SystemClock):
    """A clock that remembers how long it was slept on."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


class Hasty(Issuer):
    """Says that the interval between polls is shorter than it is."""

    async def device_authorization(
        self, scope: str | None, extra: Iterable[tuple[str, str]] = ()
    ) -> DeviceAuthorization:
        return replace(await super().device_authorization(scope, extra), interval=0.2)


@pytest.mark.chromium
async def test_a44_t27_slow_down_is_obeyed_and_a_used_code_is_not_polled_again(
    keycloak: Keycloak, person: Person
) -> None:
    """Keycloak enforces its interval of a second: it says `slow_down`, and we do, for good (RFC 8628 3.5)."""
    realm = keycloak.fresh_realm()
    clock, prompts = Watched(), list[DevicePrompt]()
    identity = replace(who(realm), client_id="client-tools")
    issuer = Hasty(identity, clock=clock)
    signing_in = asyncio.ensure_future(device_code.sign_in(issuer, identity, prompt=prompts.append, clock=clock))
    await eventually(lambda: 5.2 in clock.slept, what="slow_down")
    link = prompts[0].verification_uri_complete
    assert link is not None
    await person.approve(link)
    token_set = await signing_in
    await pause(1)
    await issuer.close()
    assert token_set.username == "alice"
    assert clock.slept[:3] == [0.2, 0.2, 5.2]
    assert set(clock.slept[2:]) == {5.2}
    assert len(realm.events("OAUTH2_DEVICE_CODE_TO_TOKEN", "client-tools")) == 1
    refused = [event["error"] for event in realm.events("OAUTH2_DEVICE_CODE_TO_TOKEN_ERROR", "client-tools")]
    assert refused == ["slow_down"]
