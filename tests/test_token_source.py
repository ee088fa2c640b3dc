import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from proxy.clock import SystemClock, settle
from proxy.errors import IdentityMisconfigured, IssuerUnavailable, SignInRequired, StoreError
from proxy.events import (
    Misconfigured,
    RenewalFailed,
    SignedIn,
    SignedOut,
    SignInEnded,
    StoreTrouble,
    TokenRenewed,
)
from proxy.grants import fingerprint
from proxy.identities import Grant, Identity
from proxy.secret_refs import Secret
from proxy.stores import FileStore, MemoryStore
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.bench import Bench, Gate
from tests.poll import eventually
from tests.scripted_issuer import error, identity


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- serving and renewing


async def test_stored_set_is_served_without_a_call(bench: Bench) -> None:
    """T1: a start costs nothing while what is stored is valid."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        assert source.current() == stored
        assert await source.token() == stored

    assert bench.issuer.token_calls == 0
    assert bench.told(SignedIn) == []


async def test_renewed_ahead_without_traffic(bench: Bench) -> None:
    """T1: at two thirds of life, by itself, and again and again."""
    await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(199)
        assert bench.issuer.token_calls == 0
        await bench.manual.advance(2)
        assert bench.issuer.token_calls == 1
        await bench.manual.advance(3600)

        assert source.status().state == "ready"
        assert bench.issuer.token_calls == 1 + 18
        assert bench.issuer.reuses == 0
        assert len(bench.told(TokenRenewed)) == 19


async def test_t1_sources_are_renewed_at_moments_of_their_own() -> None:
    """Two thirds of life, a tenth more or less: that is what a source does which is told nothing of it."""
    ages: list[float] = []
    for _ in range(30):
        bench = Bench()
        await bench.sign_in()
        issuer, began = bench.issuer.at(bench.clock), bench.clock.boot()
        async with started(TokenSource(bench.who, issuer=issuer, store=bench.store, clock=bench.clock)):
            while not bench.issuer.token_calls:
                await bench.manual.advance(1)
        ages.append(bench.clock.boot() - began)

    assert min(ages) >= 180
    assert max(ages) <= 221
    assert max(ages) - min(ages) > 10


@asynccontextmanager
async def started(source: TokenSource) -> AsyncIterator[TokenSource]:
    await source.start()
    try:
        yield source
    finally:
        await source.close()


@pytest.mark.parametrize(("jitter", "age"), [(0.9, 180), (1.1, 220)])
async def test_jitter_moves_the_renewal(bench: Bench, jitter: float, age: float) -> None:
    """T1: two thirds, a tenth more or less, so that a hundred machines do not ask at once."""
    await bench.sign_in()
    async with bench.source(jitter=jitter):
        await bench.manual.advance(age - 1)
        assert bench.issuer.token_calls == 0
        await bench.manual.advance(2)
        assert bench.issuer.token_calls == 1


async def test_hundred_callers_one_call(bench: Bench) -> None:
    """A33, at a life of 5 s too: with an expired token all wait for the same flight."""
    for life in (300, 5):
        bench.issuer.life = life
        await bench.store.save("provena", bench.a_set(expires_at=bench.clock.wall() - 1))
        before = bench.issuer.token_calls
        async with bench.source() as source:
            sets = await asyncio.gather(*(source.token() for _ in range(100)))

        assert len({one.access_token for one in sets}) == 1
        assert bench.issuer.token_calls == before + 1
        assert bench.issuer.reuses == 0


async def test_five_second_tokens_cost_one_call_a_life(bench: Bench) -> None:
    """The leeway is a fifth of life, so that short tokens do not renew at each request."""
    bench.issuer.life = 5
    await bench.sign_in()
    async with bench.source() as source:
        for _ in range(600):
            assert (await source.token()).remaining(bench.clock.wall(), bench.clock.boot()) > 0
            await bench.manual.advance(0.1)

    assert 15 <= bench.issuer.token_calls <= 20
    assert bench.issuer.reuses == 0


async def test_within_the_leeway_callers_wait(bench: Bench) -> None:
    """T1: nobody is given a token that may end on its way."""
    stored = await bench.sign_in(expires_at=bench.clock.wall() + 5, obtained_at=bench.clock.wall() - 295)
    async with bench.source() as source:
        assert source.current() is None
        assert await source.token() != stored


async def test_new_set_is_stored_before_it_is_served(bench: Bench) -> None:
    """T11: persist before publish: what callers hold is on disk (law 4)."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        served = await source.token()

        assert await bench.store.load("provena") == served
        assert served.refresh_token == "canary-refresh-2"
        assert (served.epoch, served.grant) == (1, "device_code")


async def test_issuer_that_does_not_rotate(bench: Bench) -> None:
    """Provena's realms: no new refresh token comes back, the old one is kept."""
    bench.issuer.rotates = False
    stored = await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(1000)

        assert (await source.token()).refresh_token == stored.refresh_token
        assert bench.issuer.reuses == 0


async def test_cancelled_caller_changes_nothing(bench: Bench) -> None:
    """A34: the caller who caused the renewal hangs up; the rotated token is stored and used."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        caller = asyncio.ensure_future(source.token())
        await gate.reached.wait()
        caller.cancel()
        await settle()
        gate.open.set()
        await settle()

        stored = await bench.store.load("provena")
        assert caller.cancelled()
        assert source.current() == stored
        await bench.manual.advance(250)
        assert bench.issuer.reuses == 0


async def test_wait_is_bounded(bench: Bench) -> None:
    """T1: a hung issuer costs a caller 10 s, then a valid token or an answer; the flight goes on."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        caller = asyncio.ensure_future(source.token())
        await bench.manual.advance(9.9)
        assert not caller.done()
        await bench.manual.advance(0.2)
        with pytest.raises(IssuerUnavailable):
            await caller

        gate.open.set()
        await settle()
        assert source.current() is not None


async def test_shutdown_keeps_what_is_under_way(bench: Bench) -> None:
    """T26: the rotated token of a renewal in flight is stored before the process ends."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        await gate.reached.wait()
        closing = asyncio.ensure_future(source.close())
        await settle()
        gate.open.set()
        await closing

    stored = await bench.store.load("provena")
    assert stored is not None
    assert stored.refresh_token == "canary-refresh-2"


# --- outages


async def test_outage_with_a_valid_token_is_not_noticed(bench: Bench) -> None:
    """T2: neither by callers nor by the health page; the status says what is wrong."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        bench.issuer.is_down = True
        await bench.manual.advance(299)

        assert await source.token() == stored
        assert source.status().state == "ready"
        assert "cannot be reached" in source.status().detail
        assert all(isinstance(one, RenewalFailed) and one.has_valid_token for one in bench.told(RenewalFailed))


async def test_outage_past_the_token(bench: Bench) -> None:
    """T2: an expired token is never handed out; callers are told at once, and when to come back."""
    await bench.sign_in()
    async with bench.source() as source:
        bench.issuer.is_down = True
        await bench.manual.advance(301)
        with pytest.raises(IssuerUnavailable) as caught:
            await source.token()

        assert caught.value.retry_after is not None
        assert 1 <= caught.value.retry_after <= 60
        assert source.status().state == "issuer-unavailable"


@pytest.mark.parametrize("jitter", [0.9, 1.0, 1.1])
async def test_outage_with_traffic_costs_few_calls(bench: Bench, jitter: float) -> None:
    """A37: under 70 calls in ten minutes however many ask, and back within 12 s."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.is_down = True
    async with bench.source(jitter=jitter) as source:
        for _ in range(1200):
            results = await asyncio.gather(*(source.token() for _ in range(3)), return_exceptions=True)
            assert all(isinstance(one, IssuerUnavailable) for one in results)
            await bench.manual.advance(0.5)
        assert 50 <= bench.issuer.calls["openid-configuration"] < 70

        bench.issuer.is_down = False
        for _ in range(12):
            await bench.manual.advance(1)
            try:
                await source.token()
                break
            except IssuerUnavailable:
                continue
        assert source.current() is not None


async def test_outage_without_traffic_costs_fewer(bench: Bench) -> None:
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.is_down = True
    async with bench.source() as source:
        await bench.manual.advance(600)
        assert 8 <= bench.issuer.calls["openid-configuration"] < 20

        bench.issuer.is_down = False
        await source_is_back(bench, source, within=61)


async def source_is_back(bench: Bench, source: TokenSource, *, within: float) -> None:
    await bench.manual.advance(within)
    assert source.status().state == "ready"


async def test_caller_does_not_wait_for_the_idle_pause(bench: Bench) -> None:
    """T2: after a long quiet outage the first caller causes a call at once, not in up to a minute."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.is_down = True
    async with bench.source() as source:
        await bench.manual.advance(300)
        bench.issuer.is_down = False
        await bench.manual.advance(11)
        if source.status().state != "ready":
            assert (await source.token()).access_token


async def test_retry_after_is_obeyed(bench: Bench) -> None:
    """T3: not a call before it, however many ask."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.script.append(httpx2.Response(429, headers={"retry-after": "120"}))
    async with bench.source() as source:
        for _ in range(119):
            with pytest.raises(IssuerUnavailable):
                await source.token()
            await bench.manual.advance(1)
        assert bench.issuer.token_calls == 1
        await bench.manual.advance(2)
        assert (await source.token()).access_token
        assert bench.issuer.token_calls == 2


async def test_start_during_an_outage(bench: Bench) -> None:
    """T29: the process starts, says that it is not ready, and becomes so."""
    bench.issuer.is_down = True
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS)) as source:
        await bench.manual.advance(3)
        assert source.status().state == "issuer-unavailable"
        bench.issuer.is_down = False
        await bench.manual.advance(12)
        assert source.status().state == "ready"


# --- the end of a sign-in


async def test_not_signed_in(bench: Bench) -> None:
    async with bench.source() as source:
        await bench.manual.advance(10)
        with pytest.raises(SignInRequired) as caught:
            await source.token()

    assert caught.value.detail == "Not signed in as 'provena': run: bearerproxy login provena"
    assert caught.value.login == "provena"
    assert bench.issuer.requests == []


async def test_invalid_grant_costs_one_call(bench: Bench) -> None:
    """A38: one call, a state, an event; then silence, whatever the traffic."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.live.clear()
    async with bench.source() as source:
        for _ in range(600):
            with pytest.raises(SignInRequired):
                await source.token()
            await bench.manual.advance(1)

        assert bench.issuer.token_calls == 1
        assert source.status().state == "sign-in-required"
        assert "bearerproxy login provena" in source.status().detail
        assert len(bench.told(SignInEnded)) == 1


async def test_ended_sign_in_serves_to_the_last_second(bench: Bench) -> None:
    """T9: what the issuer ended yesterday may still be valid for minutes."""
    await bench.sign_in()
    bench.issuer.live.clear()
    async with bench.source() as source:
        await bench.manual.advance(299)
        assert (await source.token()).access_token
        assert source.status().state == "ready"
        assert "has ended" in source.status().detail
        await bench.manual.advance(2)
        with pytest.raises(SignInRequired):
            await source.token()
        assert bench.issuer.token_calls == 1


async def test_invalid_grant_looks_into_the_store_once(bench: Bench) -> None:
    """A38, T17: two calls if the store held a newer refresh token, for instance where no lock could be had."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.live.clear()
    newer = bench.a_set(expires_at=bench.clock.wall() - 1)

    async def refuse_and_write(_: dict[str, str]) -> httpx2.Response:
        await bench.store.save("provena", newer)
        return error("invalid_grant")

    bench.issuer.script.append(refuse_and_write)
    async with bench.source() as source:
        assert (await source.token()).access_token

    assert [form["refresh_token"] for form in bench.issuer.forms] == ["canary-refresh-1", newer.refresh_token]


async def test_t17_a_store_that_always_has_another_token_costs_two_calls(bench: Bench) -> None:
    """A38: one more try with what the store held, and not one for each writer."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)

    async def refuse_and_write(_: dict[str, str]) -> httpx2.Response:
        await bench.store.save("provena", bench.a_set(expires_at=bench.clock.wall() - 1))
        return error("invalid_grant")

    bench.issuer.outage = refuse_and_write
    async with bench.source() as source:
        with pytest.raises(SignInRequired):
            await source.token()
        assert bench.issuer.token_calls == 2


async def test_access_token_without_refresh_token_ends(bench: Bench) -> None:
    await bench.sign_in(refresh_token=None)
    async with bench.source() as source:
        await bench.manual.advance(299)
        assert source.status().state == "ready"
        await bench.manual.advance(2)
        with pytest.raises(SignInRequired):
            await source.token()

    assert bench.issuer.token_calls == 0


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client", "invalid_scope"])
async def test_configuration_error_stops(bench: Bench, code: str) -> None:
    """T16: no retry until the configuration changes."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.script.extend(error(code) for _ in range(9))
    async with bench.source() as source:
        for _ in range(600):
            with pytest.raises(IdentityMisconfigured):
                await source.token()
            await bench.manual.advance(1)

        assert bench.issuer.token_calls == 1
        assert source.status().state == "misconfigured"
        assert len(bench.told(Misconfigured)) == 1


async def test_renewal_for_another_user_is_not_taken(bench: Bench) -> None:
    """T28, S44: stop and tell; what is stored stays."""
    stored = await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.sub = "mallory"
    async with bench.source() as source:
        with pytest.raises(IdentityMisconfigured, match="another user"):
            await source.token()

    assert await bench.store.load("provena") == stored


# --- grants that need nobody


@pytest.mark.parametrize("grant", [Grant.CLIENT_CREDENTIALS, Grant.PASSWORD])
async def test_repeatable_grants_sign_themselves_in(bench: Bench, grant: Grant) -> None:
    who = identity(grant, username="alice", password=Secret.parse("pw", literal=True))
    async with bench.source(who) as source:
        assert (await source.token()).access_token
        await bench.manual.advance(250)

    assert bench.issuer.forms[0]["grant_type"] == grant.value
    assert bench.issuer.token_calls == 2
    assert len(bench.told(SignedIn)) == 1


async def test_restart_uses_the_stored_service_token(bench: Bench) -> None:
    """A cron job that prints a token costs no call while the stored one lives."""
    for _ in range(5):
        async with bench.source(identity(Grant.CLIENT_CREDENTIALS)) as source:
            await source.token()

    assert bench.issuer.token_calls == 1


async def test_changed_service_account_is_not_served_the_old_token(bench: Bench) -> None:
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS)) as source:
        old = await source.token()
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS, client_id="other")) as source:
        assert (await source.token()).access_token != old.access_token

    assert [form["client_id"] for form in bench.issuer.forms] == ["client-tools", "other"]


async def test_password_grant_survives_the_end_of_its_session(bench: Bench) -> None:
    """The refresh token is preferred; when the session ends, the password makes a new one."""
    who = identity(Grant.PASSWORD, username="alice", password=Secret.parse("pw", literal=True))
    async with bench.source(who) as source:
        await source.token()
        bench.issuer.live.clear()
        await bench.manual.advance(250)
        assert source.status().state == "ready"

    assert [form["grant_type"] for form in bench.issuer.forms] == ["password", "refresh_token", "password"]


async def test_wrong_password_is_a_configuration_error(bench: Bench) -> None:
    who = identity(Grant.PASSWORD, username="alice", password=Secret.parse("pw", literal=True))
    bench.issuer.script.extend(error("invalid_grant", "Invalid user credentials", status=401) for _ in range(9))
    async with bench.source(who) as source:
        await bench.manual.advance(600)
        with pytest.raises(IdentityMisconfigured, match="check username and password"):
            await source.token()

    assert bench.issuer.token_calls == 1


async def test_set_of_another_issuer_is_never_sent(bench: Bench) -> None:
    """S27: a changed configuration must not show a refresh token to a stranger."""
    await bench.sign_in(issuer="https://elsewhere.example.org", expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        with pytest.raises(SignInRequired):
            await source.token()

    assert bench.issuer.requests == []


# --- seeds


def seeded(text: str, grant: Grant = Grant.REFRESH_TOKEN) -> Identity:
    return identity(grant, refresh_token=Secret.parse(text, literal=True))


async def test_seed_is_spent_once(bench: Bench) -> None:
    """The first start spends it; later ones, and all renewals, use what it brought."""
    bench.issuer.live.add("canary-seed")
    for _ in range(3):
        async with bench.source(seeded("canary-seed")) as source:
            assert (await source.token()).refresh_token != "canary-seed"
            await bench.manual.advance(250)

    assert [form["refresh_token"] for form in bench.issuer.forms].count("canary-seed") == 1
    assert bench.issuer.reuses == 0
    stored = await bench.store.load("provena")
    assert stored is not None
    assert (stored.grant, stored.epoch) == ("refresh_token", 1)


async def test_another_seed_replaces_the_sign_in(bench: Bench) -> None:
    bench.issuer.live |= {"canary-seed", "canary-seed-two"}
    async with bench.source(seeded("canary-seed")) as source:
        await source.token()
    async with bench.source(seeded("canary-seed-two")) as source:
        assert (await source.token()).epoch == 2

    assert bench.issuer.forms[-1]["refresh_token"] == "canary-seed-two"


async def test_used_up_seed_is_never_sent_again(bench: Bench) -> None:
    """Also not after a restart: a rotated seed sent again would end the session of who holds its successor."""
    for _ in range(3):
        async with bench.source(seeded("canary-seed")) as source:
            with pytest.raises(SignInRequired, match="put a new one into refresh_token"):
                await source.token()
            await bench.manual.advance(100)

    assert bench.issuer.token_calls == 1


async def test_seed_waits_for_the_store(bench: Bench) -> None:
    """A store that cannot be read may hold the seed's successor."""

    class Shut(MemoryStore):
        is_shut = True

        async def load(self, name: str) -> TokenSet | None:
            if self.is_shut:
                raise StoreError("Close it: chmod 600 tokens.json")
            return await super().load(name)

    store = bench.store = Shut()
    bench.issuer.live.add("canary-seed")
    async with bench.source(seeded("canary-seed")) as source:
        await bench.manual.advance(10)
        assert bench.issuer.requests == []
        assert "chmod 600" in source.status().detail
        store.is_shut = False
        await bench.manual.advance(2)
        assert (await source.token()).epoch == 1


async def test_t13_seed_that_another_process_spends_while_we_read_the_store(bench: Bench) -> None:
    """The set and the trace beside it are of one moment: neither is a person asked, nor the seed sent again."""

    class Overtaken(MemoryStore):
        def __init__(self, written: TokenSet) -> None:
            super().__init__()
            self.written: TokenSet | None = written

        async def load(self, name: str) -> TokenSet | None:
            found, written = await super().load(name), self.written
            if written is not None:
                self.written = None
                await super().save(name, written)
            return found

    who = seeded("canary-seed")
    theirs = bench.a_set(grant="refresh_token", seed=await fingerprint(who))
    bench.store = Overtaken(theirs)
    async with bench.source(who) as source:
        assert await source.token() == theirs

    assert bench.issuer.token_calls == 0


async def test_seed_does_not_replace_a_later_sign_in(bench: Bench) -> None:
    """A person signed in after the seed was used: the same seed at the next start changes nothing."""
    bench.issuer.live.add("canary-seed")
    who = seeded("canary-seed", Grant.DEVICE_CODE)
    async with bench.source(who) as source:
        await source.token()
    signed_in = await bench.sign_in(epoch=2)
    async with bench.source(who) as source:
        assert await source.token() == signed_in

    assert (await bench.store.trace("provena")).seed == await fingerprint(who)


# --- what an upstream's 401 may cost


async def test_reject_renews_and_returns_the_new_set(bench: Bench) -> None:
    """T19: a token that was revoked early is replaced."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        newer = await source.reject(stored, upstream="data")

    assert newer is not None
    assert newer.access_token != stored.access_token
    assert bench.issuer.token_calls == 1


async def test_hundred_rejections_one_renewal(bench: Bench) -> None:
    """T19: compare and drop: late reporters get the new set and do not blame it."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        first = await asyncio.gather(*(source.reject(stored, upstream="data") for _ in range(100)))
        late = await source.reject(stored, upstream="data")

    assert {one.access_token for one in first if one is not None} == {late.access_token if late else ""}
    assert None not in first
    assert bench.issuer.token_calls == 1


async def test_always_401_is_bounded(bench: Bench) -> None:
    """T20, A40: the token that the forced renewal brought is not blamed again, not even after 30 s."""
    await bench.sign_in()
    async with bench.source() as source:
        for _ in range(120):
            await source.reject(await source.token(), upstream="data")
            await bench.manual.advance(1)

    assert bench.issuer.token_calls == 1


async def test_one_forced_renewal_in_thirty_seconds(bench: Bench) -> None:
    """T20: with tokens so short that each 401 is about another one, time is the bound."""
    bench.issuer.life = 5
    await bench.sign_in()
    async with bench.source() as source:
        for _ in range(60):
            before = bench.issuer.token_calls
            await source.reject(await source.token(), upstream="data")
            forced = bench.issuer.token_calls - before
            assert forced <= 1
            await bench.manual.advance(1)

    ordinary = 60 / (5 * 2 / 3)
    assert bench.issuer.token_calls <= ordinary + 3


async def test_upstreams_have_bounds_of_their_own(bench: Bench) -> None:
    """T20: a revoked token is cured on one upstream though another one, which refuses everything, used up its bound."""
    await bench.sign_in()
    async with bench.source() as source:
        await source.reject(await source.token(), upstream="always-401")
        revoked = await source.token()
        assert await source.reject(revoked, upstream="data") is not None

    assert bench.issuer.token_calls == 2


@pytest.mark.parametrize("left", [0.5, -0.5])
async def test_t20_the_end_of_a_token_is_not_forced(bench: Bench, left: float) -> None:
    """A suspend holds up a request until its token ends, soon after another one was revoked: nothing is forced."""
    bench.issuer.life = 3
    revoked = await bench.sign_in()
    async with bench.source() as source:
        presented = await source.reject(revoked, upstream="data")
        assert presented is not None
        bench.manual.suspend(3 - left)
        newer = await source.reject(presented, upstream="data")

        assert newer is not None
        assert newer.access_token != presented.access_token
        assert bench.issuer.token_calls == 2


async def test_t20_the_end_of_a_token_leaves_the_forced_renewal_to_who_needs_it(bench: Bench) -> None:
    """An ordinary renewal, whoever asks for it, does not count as the one in 30 s."""
    bench.issuer.life = 3
    stored = await bench.sign_in()
    async with bench.source() as source:
        bench.manual.suspend(2.5)
        revoked = await source.reject(stored, upstream="data")
        assert revoked is not None
        assert await source.reject(revoked, upstream="data") is not None


async def test_t19_nothing_is_replayed_with_a_token_that_is_about_to_end(bench: Bench) -> None:
    """A newer one is there, but it is at its end too: there is one replay, and it must not meet the next 401."""
    bench.issuer.life = 3
    stored = await bench.sign_in()
    async with bench.source() as source:
        second = await source.reject(stored, upstream="data")
        bench.manual.suspend(2.5)
        third = await source.reject(stored, upstream="data")

        assert None not in (second, third)
        assert third != second
        assert third == source.current()


async def test_reject_during_an_outage_keeps_the_token(bench: Bench) -> None:
    """T22: law 6: a 401 may be about anything; what both clocks call valid goes on serving the other upstreams."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        bench.issuer.is_down = True
        assert await source.reject(stored, upstream="data") is None
        assert await source.token() == stored
        bench.issuer.is_down = False
        await bench.manual.advance(31)
        assert await source.reject(stored, upstream="data") is not None


async def test_reject_without_a_way_to_renew(bench: Bench) -> None:
    stored = await bench.sign_in(refresh_token=None)
    async with bench.source() as source:
        assert await source.reject(stored) is None
        assert source.status().state == "ready"


# --- clocks


async def test_wall_clock_jumps(bench: Bench) -> None:
    """A39: forward costs one renewal, backward never lengthens a life."""
    await bench.sign_in()
    async with bench.source() as source:
        bench.manual.jump_wall(3600)
        assert (await source.token()).access_token
        assert bench.issuer.token_calls == 1
        bench.manual.jump_wall(-7200)
        await bench.manual.advance(201)
        assert bench.issuer.token_calls == 2
        assert (await source.token()).access_token


async def test_suspend(bench: Bench) -> None:
    """A39, T7: after a night with the lid closed the token is expired, and the first caller gets a new one."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(0.5)
        bench.manual._boot += 8 * 3600
        bench.manual._wall += 8 * 3600

        assert source.current() is None
        assert await source.token() != stored


# --- several processes, sign-in and sign-out


async def test_sign_in_elsewhere_is_taken_up(bench: Bench) -> None:
    """T13: within 2 s, without a restart."""
    async with bench.source() as source:
        await bench.manual.advance(5)
        signed_in = await bench.sign_in()
        await bench.manual.advance(1.5)

        assert source.current() == signed_in
        assert len(bench.told(SignedIn)) == 1


async def test_sign_in_elsewhere_cures_an_ended_one(bench: Bench) -> None:
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.live.clear()
    async with bench.source() as source:
        await bench.manual.advance(5)
        assert source.status().state == "sign-in-required"
        await bench.sign_in(epoch=2)
        await bench.manual.advance(1.5)
        assert source.status().state == "ready"


async def test_sign_out_elsewhere_is_taken_up(bench: Bench) -> None:
    await bench.sign_in()
    async with bench.source() as source:
        await bench.store.delete("provena")
        await bench.manual.advance(1.5)

        assert source.current() is None
        assert "elsewhere" in source.status().detail
        assert len(bench.told(SignedOut)) == 1


async def test_two_sources_share_renewals(bench: Bench) -> None:
    """T13: two processes on one store, rotation on: one call for each life, no reuse."""
    await bench.sign_in()
    async with bench.source() as one, bench.source(jitter=1.001) as other:
        await bench.manual.advance(2000)

        assert one.current() == other.current()
        assert bench.issuer.token_calls == 10
        assert bench.issuer.reuses == 0


async def test_sign_out(bench: Bench) -> None:
    """T30: revoked at the issuer (RFC 7009), deleted, dropped; and nothing brings it back."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        assert await source.sign_out() == "Signed out of 'provena', here and at the issuer."
        assert source.current() is None
        await bench.manual.advance(100)
        with pytest.raises(SignInRequired, match="Signed out"):
            await source.token()

    assert bench.issuer.revoked == [stored.refresh_token]
    assert await bench.store.load("provena") is None
    assert bench.issuer.token_calls == 0


async def test_sign_out_without_the_issuer(bench: Bench) -> None:
    """T30: the local part works offline, and the sentence says what is left."""
    await bench.sign_in()
    bench.issuer.is_down = True
    async with bench.source() as source:
        said = await source.sign_out()

    assert said.startswith("Signed out of 'provena' here, but not everywhere: The issuer")
    assert await bench.store.load("provena") is None


async def test_sign_out_without_start(bench: Bench) -> None:
    """As the command does it, beside a running server."""
    await bench.sign_in()
    source = TokenSource(identity(), issuer=bench.issuer.at(bench.clock), store=bench.store, clock=bench.clock)

    assert "here and at the issuer" in await source.sign_out()
    assert await source.sign_out() == "Nobody was signed in as 'provena'."


async def test_sign_out_is_not_undone_by_a_late_renewal(bench: Bench) -> None:
    """T30: law 12: the answer of an earlier epoch is thrown away, in memory and in the store."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        await gate.reached.wait()
        signing_out = asyncio.ensure_future(source.sign_out())
        await bench.manual.advance(11)  # the wait for the flight is bounded
        assert (await signing_out).startswith("Signed out")
        gate.open.set()
        await settle()

        assert source.current() is None
        assert await bench.store.load("provena") is None


async def test_sign_in_is_not_undone_by_a_late_renewal(bench: Bench) -> None:
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        await gate.reached.wait()
        bench.issuer.sub = "bob"
        signed_in = bench.a_set()
        await source.adopt(signed_in)
        gate.open.set()
        await settle()

        served = await source.token()
        assert served.access_token == signed_in.access_token
        assert served.epoch == 2
        assert await bench.store.load("provena") == served


async def test_adopting_what_is_stored_already(bench: Bench) -> None:
    async with bench.source() as source:
        signed_in = await bench.sign_in()
        await source.adopt(signed_in)

        assert source.current() == signed_in
        assert len(bench.told(SignedIn)) == 1


async def test_signed_out_service_account_stays_out(bench: Bench) -> None:
    """T30: a new epoch for what needs no person, too."""
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS)) as source:
        await source.token()
        await source.sign_out()
        await bench.manual.advance(1000)
        assert source.status().state == "sign-in-required"

    assert bench.issuer.token_calls == 1


# --- a store in trouble


class FullStore(MemoryStore):
    """Reads; writes only when there is room."""

    has_room = False

    async def save(self, name: str, token_set: TokenSet) -> bool:
        if not self.has_room and token_set.access_token.count(".") and await self.load(name) is not None:
            raise StoreError("No space left on device.")
        return await super().save(name, token_set)


async def test_full_disk_keeps_memory_serving(bench: Bench) -> None:
    """T14: serve, tell once, write again when there is room."""
    store = bench.store = FullStore()
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        served = await source.token()
        await bench.manual.advance(100)
        assert source.current() == served
        assert source.status().detail == "No space left on device."
        assert len(bench.told(StoreTrouble)) == 1

        store.has_room = True
        await bench.manual.advance(12)
        assert await store.load("provena") == served
        assert source.status().detail == ""


async def test_unreadable_store_while_serving(bench: Bench, tmp_path: Path) -> None:
    """A file that was opened to others is refused; what memory holds goes on, and a cure is taken up."""
    bench = Bench(store=FileStore(tmp_path), clock=SystemClock())
    stored = await bench.sign_in()
    path = tmp_path / "tokens.json"
    async with bench.source() as source:
        path.chmod(0o644)
        path.touch()
        await eventually(lambda: bench.told(StoreTrouble), what="trouble")
        assert source.current() == stored
        path.chmod(0o600)
        newer = await bench.sign_in(epoch=2)
        await eventually(lambda: source.current() == newer, timeout=2.0, what="the new sign-in")


async def test_real_clock_and_file(tmp_path: Path) -> None:
    """All of it on the real clock and disk: 1 s tokens, two sources, rotation on."""
    bench = Bench(store=FileStore(tmp_path), clock=SystemClock(), life=1)
    await bench.sign_in()
    async with bench.source() as one, bench.source() as other:
        await eventually(lambda: bench.issuer.token_calls >= 4, what="four renewals")
        sets = [await source.token() for source in (one, other) for _ in range(20)]

    assert all(isinstance(token_set, TokenSet) for token_set in sets)
    assert bench.issuer.reuses == 0


async def test_sign_out_sends_nothing_to_strangers(bench: Bench) -> None:
    """S27: a stored set of another issuer is forgotten here and shown to nobody."""
    await bench.sign_in(issuer="https://elsewhere.example.org")
    async with bench.source() as source:
        await source.sign_out()

    assert bench.issuer.requests == []
    assert await bench.store.load("provena") is None


async def test_two_configurations_on_one_store(bench: Bench) -> None:
    """Somebody else's sign-in under our name: ours goes on in memory, without a storm at the issuer."""
    await bench.sign_in()
    async with bench.source() as source:
        await bench.store.save("provena", bench.a_set(epoch=2, issuer="https://elsewhere.example.org"))
        await bench.manual.advance(600)

        assert source.status().state == "ready"
        assert bench.issuer.token_calls == 3
        stored = await bench.store.load("provena")
        assert stored is not None
        assert stored.issuer == "https://elsewhere.example.org"


async def test_store_that_opens_late(bench: Bench) -> None:
    """A service account serves from memory; an old sign-out found later is no reason to stop."""

    class Shut(MemoryStore):
        is_shut = False

        async def load(self, name: str) -> TokenSet | None:
            if self.is_shut:
                raise StoreError("Close it: chmod 600 tokens.json")
            return await super().load(name)

        async def save(self, name: str, token_set: TokenSet) -> bool:
            if self.is_shut:
                raise StoreError("Close it: chmod 600 tokens.json")
            return await super().save(name, token_set)

    store = bench.store = Shut()
    await store.delete("provena")
    store.is_shut = True
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS)) as source:
        await bench.manual.advance(5)
        assert source.status().state == "ready"
        store.is_shut = False
        await bench.manual.advance(30)
        assert source.status().state == "ready"
        assert (await store.load("provena")) == source.current()

    assert bench.issuer.token_calls <= 2
