import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import ManualClock
from proxy.errors import GrantRefused, StoreError
from proxy.grants import fingerprint
from proxy.identities import Grant, Identity
from proxy.issuer import Issuer
from proxy.secret_refs import Secret
from proxy.sign_in import plan, sign_in, was_offline_granted
from proxy.stores import MemoryStore, Trace
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.scripted_issuer import ScriptedIssuer, error, identity, jwt


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
