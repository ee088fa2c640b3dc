import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from proxy.clock import ManualClock
from proxy.errors import GrantRefused, IdentityMisconfigured, IssuerUnavailable, NotTakenOver, StoreError
from proxy.grants import fingerprint
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer
from proxy.secret_refs import Secret
from proxy.sign_in import client_of, plan, sign_in, take_over, was_offline_granted
from proxy.stores import MemoryStore, Trace
from proxy.token_files import FoundTokens
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.poll import eventually
from tests.scripted_issuer import BASE, ScriptedIssuer, error, identity, jwt


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.issuer = ScriptedIssuer()
        self.store = MemoryStore()
        self.prompts: list[Any] = []

    def at(self, who: Identity) -> Issuer:
        return self.issuer.at(self.clock, who)

    async def sign_in(self, who: Identity, *, offline: bool = False) -> TokenSet:
        running = asyncio.ensure_future(
            sign_in(
                who,
                offline=offline,
                issuer_for=self.at,
                store=self.store,
                clock=self.clock,
                device_prompt=self.prompts.append,
                open_url=self.prompts.append,
            )
        )
        await self.clock.advance(5)
        return await running

    def given(self, **claims: Any) -> str:
        """Return a refresh token that the issuer accepts."""
        token = jwt(**claims) if claims else self.issuer.grant()["refresh_token"]
        self.issuer.live.add(token)
        return token

    async def take_over(self, who: Identity, found: FoundTokens, *, is_offline: bool = False) -> TokenSet:
        return await take_over(
            who, found, is_offline=is_offline, issuer_for=self.at, store=self.store, clock=self.clock
        )  # fmt: skip


@pytest.fixture
def bench() -> Bench:
    return Bench()


PROVENA = identity(offline_client_id="automated-access", offline_scope="roles offline_access", scope="profile")


def test_plan_of_an_ordinary_sign_in() -> None:
    assert plan(PROVENA, offline=False) is PROVENA


def test_plan_of_an_offline_sign_in() -> None:
    planned = plan(PROVENA, offline=True)

    assert planned.client_id == "automated-access"
    assert planned.scope == "profile roles offline_access"


def test_plan_repeats_no_scope() -> None:
    planned = plan(identity(scope="openid offline_access"), offline=True)

    assert (planned.client_id, planned.scope) == ("client-tools", "openid offline_access")


def test_secret_stays_with_its_client() -> None:
    secret = Secret.parse("hush", literal=True)

    assert plan(replace(PROVENA, client_secret=secret), offline=True).client_secret is None
    assert plan(identity(client_secret=secret), offline=True).client_secret is secret


async def test_device_sign_in_is_stored(bench: Bench) -> None:
    kept = await bench.sign_in(PROVENA)

    assert await bench.store.load("provena") == kept
    assert (kept.epoch, kept.grant, kept.client_id, kept.seed) == (1, "device_code", "client-tools", None)
    assert len(bench.prompts) == 1


async def test_each_sign_in_is_an_epoch(bench: Bench) -> None:
    """T30."""
    await bench.sign_in(PROVENA)
    await bench.store.delete("provena")
    kept = await bench.sign_in(PROVENA)

    assert kept.epoch == 3
    assert await bench.store.trace("provena") == Trace(3, None)


async def test_offline_sign_in_survives_an_ordinary_serve(bench: Bench) -> None:
    """The stored set says with which client it is renewed, not today's configuration."""
    await bench.sign_in(PROVENA, offline=True)
    source = TokenSource(PROVENA, issuer=bench.at(PROVENA), store=bench.store, clock=bench.clock)
    await source.start()
    await bench.clock.advance(250)
    await source.close()

    assert dict(bench.issuer.pairs[0])["client_id"] == "automated-access"
    assert dict(bench.issuer.pairs[0])["scope"] == "profile roles offline_access"
    assert bench.issuer.forms[-1]["grant_type"] == "refresh_token"
    assert bench.issuer.forms[-1]["client_id"] == "automated-access"


async def test_sign_in_outlives_the_configured_seed(bench: Bench) -> None:
    """Whoever signs in while a seed is configured means this sign-in: the seed does not come back at the next start."""
    who = replace(PROVENA, refresh_token=Secret.parse("canary-seed", literal=True))
    kept = await bench.sign_in(who)
    source = TokenSource(who, issuer=bench.at(who), store=bench.store, clock=bench.clock)
    await source.start()

    assert kept.seed == await fingerprint(who)
    assert source.current() == kept
    await source.close()


async def test_silent_grant_signs_in_without_a_person(bench: Bench) -> None:
    kept = await bench.sign_in(identity(Grant.CLIENT_CREDENTIALS))

    assert kept.grant == "client_credentials"
    assert bench.prompts == []


async def test_refused_sign_in_leaves_the_old_one(bench: Bench) -> None:
    kept = await bench.sign_in(PROVENA)
    bench.issuer.script.append(error("access_denied"))

    with pytest.raises(GrantRefused):
        await bench.sign_in(PROVENA)
    assert await bench.store.load("provena") == kept


@pytest.mark.parametrize(
    "answer",
    [
        {"iss": "https://evil.example.org"},
        {"code": "", "error": "access_denied"},
        {"code": ""},
        {"state": "guessed"},
        {"state": ""},
    ],
    ids=str,
)
async def test_a43_attacked_callback_stores_nothing(bench: Bench, answer: dict[str, str]) -> None:
    """Whatever a page makes the browser bring: the earlier sign-in is as it was, and nothing listens afterwards."""
    kept = await bench.sign_in(PROVENA)
    calls = bench.issuer.token_calls
    who = replace(PROVENA, grant=Grant.AUTHORIZATION_CODE)
    flow = sign_in(
        who,
        offline=False,
        issuer_for=bench.at,
        store=bench.store,
        clock=bench.clock,
        device_prompt=bench.prompts.append,
        open_url=bench.prompts.append,
    )
    running = asyncio.ensure_future(flow)
    await eventually(lambda: len(bench.prompts) == 2, what="the issuer's page")
    asked = dict(parse_qsl(urlsplit(bench.prompts[1]).query))
    said = {"code": "canary-code", "state": asked["state"]} | answer
    query = urlencode({name: value for name, value in said.items() if value})
    async with httpx2.AsyncClient(trust_env=False) as http:
        await http.get(f"{asked['redirect_uri']}?{query}")
    await bench.clock.advance(301)  # a callback that is not ours is ignored, until nobody comes any more

    with pytest.raises(GrantRefused):
        await running
    assert await bench.store.load("provena") == kept
    assert bench.issuer.token_calls == calls
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", urlsplit(asked["redirect_uri"]).port)


async def test_unusable_store_is_said_before_the_person_acts(bench: Bench) -> None:
    class Shut(MemoryStore):
        async def trace(self, name: str) -> Trace:
            raise StoreError("chmod 600 tokens.json")

    bench.store = Shut()

    with pytest.raises(StoreError, match="chmod 600"):
        await bench.sign_in(PROVENA)
    assert bench.prompts == []


@pytest.mark.parametrize(
    ("changes", "is_granted"),
    [
        ({"scope": "profile offline_access"}, True),
        ({"scope": "profile"}, False),
        ({"scope": "profile", "refresh_token": jwt(typ="Offline")}, True),
        ({"scope": "profile", "refresh_token": jwt(typ="Refresh")}, False),
        ({"scope": "offline_access", "refresh_token": None}, False),
    ],
)
def test_was_offline_granted(changes: dict[str, Any], is_granted: bool) -> None:
    """Keycloak drops a scope that the client may not have without a word."""
    token_set = TokenSet("a", expires_at=1.0, obtained_at=0.0, client_id="c", grant="device_code", refresh_token="r")

    assert was_offline_granted(replace(token_set, **changes)) is is_granted


# The sign-in of another program


async def test_a_refresh_token_is_proved_and_becomes_a_sign_in_of_an_epoch_of_its_own(bench: Bench) -> None:
    await bench.sign_in(PROVENA)
    kept = await bench.take_over(PROVENA, FoundTokens(given := bench.given()))

    assert await bench.store.load("provena") == kept
    assert (kept.epoch, kept.grant, kept.client_id) == (2, "device_code", "client-tools")
    assert kept.refresh_token != given
    assert bench.issuer.forms[-1] == {
        "grant_type": "refresh_token",
        "refresh_token": given,
        "client_id": "client-tools",
    }


async def test_a_refused_token_changes_nothing(bench: Bench) -> None:
    kept = await bench.sign_in(PROVENA)

    with pytest.raises(GrantRefused):
        await bench.take_over(PROVENA, FoundTokens("spent-long-ago"))
    assert await bench.store.load("provena") == kept
    assert bench.issuer.token_calls == 2


async def test_an_issuer_that_is_away_proves_nothing(bench: Bench) -> None:
    bench.issuer.is_down = True

    with pytest.raises(IssuerUnavailable):
        await bench.take_over(PROVENA, FoundTokens(bench.given()))
    assert await bench.store.load("provena") is None


async def test_a_renewal_of_somebody_else_is_not_taken_over(bench: Bench) -> None:
    with pytest.raises(IdentityMisconfigured, match="another user"):
        await bench.take_over(PROVENA, FoundTokens(bench.given(), jwt(sub="bob")))
    assert await bench.store.load("provena") is None


async def test_a_store_that_cannot_be_used_costs_no_token(bench: Bench) -> None:
    class Shut(MemoryStore):
        async def trace(self, name: str) -> Trace:
            raise StoreError("chmod 600 tokens.json")

    bench.store = Shut()

    with pytest.raises(StoreError, match="chmod 600"):
        await bench.take_over(PROVENA, FoundTokens(bench.given()))
    assert bench.issuer.token_calls == 0


async def test_a_token_is_not_spent_while_another_process_renews(bench: Bench) -> None:
    """It may be the very token that a running proxy is about to spend."""

    class Held(MemoryStore):
        @asynccontextmanager
        async def renewal_lock(self, name: str, *, timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109
            raise TimeoutError
            yield

    bench.store = Held()

    with pytest.raises(IssuerUnavailable, match="nothing was sent"):
        await bench.take_over(PROVENA, FoundTokens(bench.given()))
    assert bench.issuer.token_calls == 0


async def test_a_seed_does_not_come_back_over_what_was_taken_over(bench: Bench) -> None:
    who = replace(PROVENA, grant=Grant.REFRESH_TOKEN, refresh_token=Secret.parse("canary-seed", literal=True))
    kept = await bench.take_over(who, FoundTokens(bench.given()))
    source = TokenSource(who, issuer=bench.at(who), store=bench.store, clock=bench.clock)
    await source.start()

    assert source.current() == kept
    await source.close()


async def test_the_beginning_is_when_the_person_signed_in_if_the_issuer_says(bench: Bench) -> None:
    now = bench.clock.wall()
    said = bench.issuer.grant() | {"access_token": jwt(sub="alice", auth_time=1_000, iat=4_600)}
    bench.issuer.script.append(httpx2.Response(200, json=said))

    assert (await bench.take_over(PROVENA, FoundTokens("x"))).signed_in_at == now - 3_600
    assert (await bench.take_over(PROVENA, FoundTokens(bench.given()))).signed_in_at == now


@pytest.mark.parametrize(
    ("given", "is_offline", "client"),
    [
        ("opaque", False, "client-tools"),
        ("opaque", True, "automated-access"),
        (jwt(typ="Refresh"), False, "client-tools"),
        (jwt(typ="Offline"), False, "automated-access"),
        (jwt(typ="Offline", azp="client-tools"), False, "client-tools"),
        (jwt(typ="Refresh", azp="automated-access", iss=BASE), False, "automated-access"),
    ],
)
def test_the_token_tells_which_of_our_clients_renews_it(given: str, is_offline: bool, client: str) -> None:
    assert client_of(PROVENA, given, is_offline=is_offline) == client


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (jwt(typ="Bearer", azp="client-tools"), "access token"),
        (jwt(typ="ID"), "ID token"),
        (jwt(iss="https://evil.example/"), "of the issuer https://evil.example/, 'provena' is of"),
        (jwt(azp="another-tool"), "given to the client 'another-tool'"),
    ],
)
async def test_what_is_none_of_ours_is_never_sent(bench: Bench, given: str, why: str) -> None:
    with pytest.raises(NotTakenOver, match=why) as told:
        await bench.take_over(PROVENA, FoundTokens(given))
    assert given not in str(told.value)
    assert bench.issuer.calls.total() == 0


async def test_the_next_session_is_known_to_last_as_long_as_the_last_one(bench: Bench) -> None:
    old = await bench.sign_in(PROVENA)
    start = jwt(sub="alice", auth_time=1_000, iat=1_000)
    await bench.store.save("provena", replace(old, access_token=start, session_ends_at=old.obtained_at + 36_000))

    assert (await bench.sign_in(PROVENA)).session_seconds == 36_000
    assert (await bench.sign_in(PROVENA)).session_seconds == 36_000


async def test_an_old_set_that_cannot_be_read_does_not_stand_in_the_way(bench: Bench) -> None:
    class Sealed(MemoryStore):
        async def load(self, name: str) -> TokenSet | None:
            raise StoreError("encrypted with another key")

    bench.store = Sealed()

    assert (await bench.sign_in(PROVENA)).epoch == 1
