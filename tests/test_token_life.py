"""Rows of the table of failures that one token source meets alone, by their numbers (token-life 4)."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx2
import pytest

from proxy import flights
from proxy.clock import SystemClock, settle
from proxy.errors import IdentityMisconfigured, IssuerUnavailable, SignInRequired, StoreError
from proxy.events import Misconfigured, RenewalFailed, SignInEnded, StoreTrouble, TokenRenewed, Warned
from proxy.flights import TRIES
from proxy.identities import Grant
from proxy.stores import FileStore, MemoryStore, Trace
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.bench import Bench, Gate
from tests.poll import eventually
from tests.scripted_issuer import error, jwt


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- lives


@pytest.mark.parametrize("life", [2, 5, 60, 300, 86_400, 30 * 86_400])
async def test_t1_any_life_costs_one_call_and_a_half_at_most(bench: Bench, life: int) -> None:
    """From seconds to days, with and without traffic: a valid token all the time, renewed at two thirds."""
    bench.issuer.life = life
    bench.issuer.refresh_life = 0
    await bench.sign_in()
    async with bench.source() as source:
        for _ in range(60):
            assert (await source.token()).remaining(bench.clock.wall(), bench.clock.boot()) > 0
            if life > 1000:
                bench.manual.suspend(life / 10 - 2)
            await bench.manual.advance(life / 10 if life <= 1000 else 2)

    assert 8 <= bench.issuer.token_calls <= 9
    assert bench.issuer.reuses == 0


class TellingStore(MemoryStore):
    """Tells of each write, one's own too, as a shared one does."""

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def save(self, name: str, token_set: TokenSet) -> bool:
        is_saved = await super().save(name, token_set)
        self._changed()
        return is_saved


async def test_t5_lives_that_are_shorter_than_any_pause(bench: Bench) -> None:
    """Two calls a second at most while nobody asks, though each answer wakes the background."""
    bench.issuer.life = 0.1
    bench.store = TellingStore()
    async with bench.source(replace(bench.who, grant=Grant.CLIENT_CREDENTIALS)):
        await bench.manual.advance(10)

    assert 10 < bench.issuer.token_calls <= 21


async def test_t1_no_expires_in_is_a_short_life(bench: Bench) -> None:
    bench.issuer.life = None
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        assert (await source.token()).life == 300
        await bench.manual.advance(2000)

    assert bench.issuer.token_calls == 1 + 10


async def test_t5_same_token_until_its_last_second(bench: Bench) -> None:
    """An issuer that hands out the same token while it lives: a few calls for each life, however many ask."""
    born, said = bench.clock.boot(), bench.issuer.grant()

    async def same(_: dict[str, str]) -> httpx2.Response:
        nonlocal born, said
        left = int(born + 300 - bench.clock.boot())
        if left <= 0:
            born, said, left = bench.clock.boot(), bench.issuer.grant(), 300
        return httpx2.Response(200, json=said | {"expires_in": left})

    bench.issuer.outage = same
    await bench.sign_in(access_token=said["access_token"], refresh_token=said["refresh_token"])
    async with bench.source() as source:
        for _ in range(3000):
            with contextlib.suppress(IssuerUnavailable):  # in the second in which its life is no whole one
                await source.token()
            await bench.manual.advance(0.5)

    assert bench.issuer.token_calls <= 5 * 10


async def test_t5_a_token_that_has_ended_on_arrival(bench: Bench) -> None:
    """Nobody is given it and nothing loops, but its refresh token is kept: the old one is spent."""

    async def slow(form: dict[str, str]) -> httpx2.Response:
        answer = bench.issuer.judge(form)
        await bench.manual.sleep(3)
        return answer

    bench.issuer.life = 2
    bench.issuer.outage = slow
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        refused = 0
        for _ in range(600):
            asking = asyncio.ensure_future(source.token())
            await bench.manual.advance(1)
            await bench.manual.advance(3 if not asking.done() else 0)
            with pytest.raises(IssuerUnavailable, match="had ended"):
                await asking
            refused += 1
        assert refused == 600
        assert bench.issuer.token_calls < 70 * 1.5  # some 15 minutes
        assert bench.told(TokenRenewed) == []

        bench.issuer.outage = None
        await bench.manual.advance(12)
        assert (await source.token()).access_token
    assert bench.issuer.reuses == 0


class Slept:
    """Judges a token request, and lets a night pass before the answer arrives; or an answer that is lost in it."""

    def __init__(self, bench: Bench, seconds: float, *, loses: bool = False) -> None:
        self._bench, self._seconds, self._loses = bench, seconds, loses

    async def __call__(self, form: dict[str, str]) -> httpx2.Response:
        answer = None if self._loses else self._bench.issuer.judge(form)
        self._bench.manual.suspend(self._seconds)
        if answer is None:
            raise httpx2.ReadError("Connection reset by peer")
        return answer


@pytest.mark.parametrize("loses", [False, True])
async def test_t7_a_night_in_the_middle_of_a_renewal_costs_callers_nothing(bench: Bench, loses: bool) -> None:
    """What came of it says nothing of the issuer: it is asked once more at once, and who waits is served (T5, T8)."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.script.append(Slept(bench, 8 * 3600, loses=loses))
    async with bench.source() as source:
        assert (await source.token()).remaining(bench.clock.wall(), bench.clock.boot()) > 200

    assert bench.issuer.token_calls == 2
    assert bench.issuer.reuses == 0
    assert bench.told(RenewalFailed) == []


async def test_t7_a_machine_that_sleeps_through_everything_pauses(bench: Bench) -> None:
    """Asked again at once has an end (T5): the third night in a row is a failure like any other."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.script.extend(Slept(bench, 3600) for _ in range(TRIES))
    async with bench.source() as source:
        with pytest.raises(IssuerUnavailable, match="had ended"):
            await source.token()
        assert bench.issuer.token_calls == TRIES
        await bench.manual.advance(2)
        assert source.status().state == "ready"


def late(bench: Bench, seconds: float) -> Callable[[dict[str, str]], Awaitable[httpx2.Response]]:
    """Return a script that judges a token request at once and answers it after `seconds`."""

    async def answer(form: dict[str, str]) -> httpx2.Response:
        judged = bench.issuer.judge(form)
        await bench.manual.sleep(seconds)
        return judged

    return answer


async def _served_after(bench: Bench, *answers: float) -> TokenSet:
    """Return what a caller is given whose renewal meets answers that took so long.

    Tokens live for three seconds, of which one is leeway, and the issuer usually takes one and a quarter.
    """
    bench.issuer.life = 3
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        for seconds in ((1.25,), answers):
            bench.manual.suspend(3)
            bench.issuer.script.extend(late(bench, one) for one in seconds)
            asking = asyncio.ensure_future(source.token())
            await bench.manual.advance(sum(seconds))
            served = await asking
        assert served.remaining(bench.clock.wall(), bench.clock.boot()) > served.leeway
    assert bench.issuer.token_calls == 2 + len(answers)
    assert bench.issuer.reuses == 0
    assert bench.told(RenewalFailed) == []
    return served


async def test_t5_answers_that_come_too_late_are_asked_for_again_while_callers_wait(bench: Bench) -> None:
    """As after an issuer's cold start: each was a pause itself, and whoever waits is served in the end."""
    await _served_after(bench, 4.5, 3.25)


async def test_t5_a_token_that_ended_at_the_issuer_is_followed_at_once(bench: Bench) -> None:
    """So says `expires_in: 0` of a slow issuer; the refresh token beside it is kept: the old one is spent."""
    bench.issuer.life = 3
    await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(2.5)

        async def ended(form: dict[str, str]) -> httpx2.Response:
            said = bench.issuer.judge(form).json()
            return httpx2.Response(200, json=said | {"expires_in": 0})

        bench.issuer.script.append(ended)
        bench.manual.suspend(3)
        served = await source.token()
        assert served.remaining(bench.clock.wall(), bench.clock.boot()) > served.leeway
    assert bench.issuer.reuses == 0
    assert bench.told(RenewalFailed) == []


async def test_t7_a_token_that_all_but_ended_on_its_way_is_followed_at_once(bench: Bench) -> None:
    """Its upstream may call it expired already, since issuers count whole seconds: who waits is not given it."""
    await _served_after(bench, 2.75)


async def test_t5_an_issuer_that_is_always_late_gets_pauses(bench: Bench) -> None:
    """Three calls at once, then one after each pause, until one is in time again."""
    bench.issuer.life = 3
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        await source.token()
        bench.issuer.outage = late(bench, 3.5)
        for _ in range(600):
            source.current()
            await bench.manual.advance(1)

    assert 1 + TRIES < bench.issuer.token_calls < 70
    assert len(bench.told(RenewalFailed)) > bench.issuer.token_calls - 1 - TRIES


async def test_t3_t7_a_pause_that_the_issuer_asked_for_is_kept_after_a_night(bench: Bench) -> None:
    """It did answer, so that its word counts (T3)."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)

    async def busy(_: dict[str, str]) -> httpx2.Response:
        bench.manual.suspend(3600)
        return httpx2.Response(429, headers={"retry-after": "60"})

    bench.issuer.script.append(busy)
    async with bench.source() as source:
        with pytest.raises(IssuerUnavailable):
            await source.token()
        await bench.manual.advance(50)
        assert bench.issuer.token_calls == 1


async def test_t5_one_slow_answer_of_a_quick_issuer_costs_callers_nothing(bench: Bench) -> None:
    """Answers are in time as a rule, so that the next one will be: it is asked for at once, by the same flight."""

    async def slow(form: dict[str, str]) -> httpx2.Response:
        answer = bench.issuer.judge(form)
        await bench.manual.sleep(4)
        return answer

    bench.issuer.life = 3
    await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(2.5)
        bench.issuer.script.append(slow)
        asking = asyncio.ensure_future(after(bench, source, 3))
        await bench.manual.advance(8)
        assert (await asking).access_token

    assert bench.told(RenewalFailed) == []
    assert bench.issuer.reuses == 0


async def after(bench: Bench, source: TokenSource, seconds: float) -> TokenSet:
    await bench.manual.sleep(seconds)
    return await source.token()


@pytest.mark.parametrize(("skew", "sentence"), [(3600, "3600 s behind"), (-3600, "3599 s ahead of"), (45, None)])
async def test_t6_a_wrong_clock_is_told_once_and_changes_nothing(bench: Bench, skew: int, sentence: str | None) -> None:
    """Lives count from the start of the request; `exp` and `Date` decide nothing, but the skew is worth a line."""

    async def dated(form: dict[str, str]) -> httpx2.Response:
        answer = bench.issuer.judge(form)
        answer.headers["date"] = formatdate(bench.clock.wall() + skew, usegmt=True)
        return answer

    bench.issuer.outage = dated
    await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(2000)
        assert source.status().state == "ready"

    assert bench.issuer.token_calls == 10
    told = [one.message for one in bench.told(Warned) if isinstance(one, Warned)]
    assert len(told) == (sentence is not None)
    assert sentence is None or sentence in told[0]


# --- clocks


@pytest.mark.parametrize("seed", range(4))
async def test_a39_t7_clocks_that_jump_and_stand_still(bench: Bench, seed: int) -> None:
    """An hour forward, an hour back, nights with the lid closed: nothing expired is handed out, and no storm."""
    chance = random.Random(seed)  # noqa: S311 - a seeded fault
    jumps = 0
    await bench.sign_in()
    async with bench.source() as source:
        for _ in range(400):
            match chance.randrange(40):
                case 0:
                    bench.manual.jump_wall(3600)
                case 1:
                    bench.manual.jump_wall(-3600)
                case 2:
                    bench.manual.suspend(chance.choice([60, 250, 8 * 3600]))
                case _:
                    jumps -= 1
            jumps += 1
            held = source.current() or await source.token()
            assert held.boot_deadline is not None
            assert bench.clock.boot() < held.boot_deadline
            assert bench.clock.wall() < held.expires_at
            await bench.manual.advance(chance.uniform(0, 10))

    assert jumps > 15
    ordinary = 400 * 5 / 200
    assert bench.issuer.token_calls <= ordinary + jumps + 5
    assert bench.issuer.reuses == 0


async def test_t7_after_a_night_the_background_needs_a_second(bench: Bench) -> None:
    """Timers stood still in suspend: the clocks are looked at each second, so that nobody meets the old token."""
    stored = await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(10)
        bench.manual.suspend(8 * 3600)
        await bench.manual.advance(1.1)
        assert source.current() not in (None, stored)

    assert bench.issuer.token_calls == 1


async def test_a39_a_jump_during_an_outage_sends_nothing_expired(bench: Bench) -> None:
    """Wall time says that it has ended, boot time that it has not: nobody can know, so it is not sent (T7)."""
    await bench.sign_in()
    bench.issuer.is_down = True
    async with bench.source() as source:
        bench.manual.jump_wall(3600)
        with pytest.raises(IssuerUnavailable):
            await source.token()
        bench.manual.jump_wall(-3600)
        assert (await source.token()).access_token


# --- the end of a sign-in


@pytest.mark.parametrize(
    "description",
    [
        "Session not active",
        "Token is not active",
        "Stale token",
        "Offline session not active",
        "Offline user session not found",
        "User disabled",
        "Maximum allowed refresh token reuse exceeded",
        "Session doesn't have required client",
        "Account is not fully set up",
        "",
    ],
)
async def test_t9_t17_an_ended_grant_costs_one_call(bench: Bench, description: str) -> None:
    """A38: whatever the words, `invalid_grant` is final: served to the token's end, one line, silence (T9, T17)."""
    await bench.sign_in()
    bench.issuer.script.extend(error("invalid_grant", description) for _ in range(9))
    async with bench.source() as source:
        await bench.manual.advance(250)
        assert source.status().state == "ready"
        assert (await source.token()).access_token
        await bench.manual.advance(51)
        for _ in range(600):
            with pytest.raises(SignInRequired, match="run: bearerproxy login provena"):
                await source.token()
            await bench.manual.advance(1)
        assert source.status().state == "sign-in-required"

    assert bench.issuer.token_calls == 1
    [ended] = bench.told(SignInEnded)
    assert isinstance(ended, SignInEnded)
    assert description in ended.reason


async def test_t9_a_service_account_is_obtained_anew(bench: Bench) -> None:
    """There is no refresh token to end: each life is a call of its own, for ever."""
    bench.issuer.refresh_life = None
    async with bench.source(replace(bench.who, grant=Grant.CLIENT_CREDENTIALS)) as source:
        await bench.pass_time(6 * 3600, step=20)
        assert source.status().state == "ready"

    assert {form["grant_type"] for form in bench.issuer.forms} == {"client_credentials"}
    assert bench.issuer.token_calls == pytest.approx(6 * 3600 / 200, rel=0.1)


async def test_t10_an_idle_session_is_kept_alive(bench: Bench) -> None:
    """Idle time is two minutes, tokens live an hour, nobody asks for half a day: the sign-in is still there."""
    bench.issuer.life, bench.issuer.refresh_life = 3600, 120
    await bench.sign_in(refresh_expires_at=bench.clock.wall() + 120)
    async with bench.source() as source:
        for _ in range(12):
            await bench.pass_time(3600, step=30)
            left = (source.status().refresh_expires_at or 0) - bench.clock.wall()
            assert 0 < left <= 120
        assert source.status().state == "ready"
    assert bench.told(SignInEnded) == []


async def test_t10_an_offline_token_is_used_daily(bench: Bench) -> None:
    bench.issuer.life, bench.issuer.refresh_life = 365 * 86_400, 0
    bench.issuer.rotates = False
    await bench.sign_in(refresh_token=jwt(typ="Offline"))
    bench.issuer.live.add(jwt(typ="Offline"))
    async with bench.source():
        await bench.pass_time(10 * 86_400, step=1800)

    assert 10 <= bench.issuer.token_calls <= 11


async def test_t11_a_start_with_a_spent_token(bench: Bench) -> None:
    """Killed between the answer and the disk: what is stored meets reuse; one call, then a person is asked."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.live.clear()
    for starts in range(1, 4):
        async with bench.source() as source:
            await bench.manual.advance(300)
            assert source.status().state == "sign-in-required"
        assert bench.issuer.token_calls == starts  # a start is somebody's wish to try again

    assert len(bench.told(SignInEnded)) == 3


class SlowStore(MemoryStore):
    """Takes its time over the write of a renewal, and can be told not to delete."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing = asyncio.Event()
        self.may_write = asyncio.Event()
        self.deletes = True

    async def save(self, name: str, token_set: TokenSet) -> bool:
        if await self.load(name) is not None:
            self.is_writing.set()
            await self.may_write.wait()
        return await super().save(name, token_set)

    async def delete(self, name: str, *, seed: str | None = None) -> Trace:
        if not self.deletes:
            raise StoreError("The token store is read-only.")
        return await super().delete(name, seed=seed)


async def test_t11_nobody_is_served_what_is_not_stored_yet(bench: Bench) -> None:
    """Law 4: while the new set is being written, callers are given the old one."""
    store = bench.store = SlowStore()
    stored = await bench.sign_in(expires_at=bench.clock.wall() + 90, obtained_at=bench.clock.wall() - 210)
    async with bench.source() as source:
        await store.is_writing.wait()
        assert source.current() == stored
        store.may_write.set()
        await settle()
        assert source.current() == await store.load("provena") != stored


async def test_t12_an_answer_that_never_came(bench: Bench) -> None:
    """The issuer rotated and its answer was lost: one more call with the same token, then a person is asked."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)

    async def lost(form: dict[str, str]) -> httpx2.Response:
        bench.issuer.judge(form)
        raise httpx2.ReadTimeout("")

    bench.issuer.script.append(lost)
    async with bench.source() as source:
        for _ in range(600):
            await bench.manual.advance(1)
            with pytest.raises((IssuerUnavailable, SignInRequired)):
                await source.token()
        assert source.status().state == "sign-in-required"

    spent = [form["refresh_token"] for form in bench.issuer.forms]
    assert spent == ["canary-refresh-1", "canary-refresh-1"]


async def test_t12_an_answer_that_never_came_where_one_reuse_is_allowed(bench: Bench) -> None:
    """Without rotation, or with Max Reuse 1 at the issuer, the retry closes the window."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.script.append(httpx2.ReadTimeout(""))
    async with bench.source() as source:
        await bench.manual.advance(3)
        assert source.status().state == "ready"
    assert bench.issuer.token_calls == 2


async def test_t13_a_lock_that_another_process_holds(bench: Bench) -> None:
    """The wait is bounded: a valid token is served all the time, and afterwards 503 with Retry-After."""
    await bench.sign_in()
    async with bench.store.renewal_lock("provena", timeout=1), bench.source() as source:
        await bench.manual.advance(295)
        asking = asyncio.ensure_future(source.token())
        await bench.manual.advance(3)
        assert (await asking).access_token
        await bench.manual.advance(5)
        asking = asyncio.ensure_future(source.token())
        await bench.manual.advance(11)
        with pytest.raises(IssuerUnavailable) as caught:
            await asking
        assert caught.value.retry_after is not None
        await bench.manual.advance(5)

    assert bench.issuer.token_calls <= 1


async def test_t13_a_lock_that_is_never_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flight's own wait is bounded too: nothing is spent without the lock, and nobody waits during the back-off."""
    monkeypatch.setattr(flights, "LOCK_SECONDS", 0.1)
    bench = Bench(clock=SystemClock())
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        async with bench.store.renewal_lock("provena", timeout=1):
            for _ in range(2):
                began = bench.clock.boot()
                with pytest.raises(IssuerUnavailable, match="Another process has been renewing"):
                    await source.token()
                assert bench.clock.boot() - began < flights.WAIT_SECONDS / 2
            assert bench.issuer.token_calls == 0
        await eventually(source.current, 12, what="a renewal")

    assert bench.issuer.token_calls == 1


@pytest.mark.parametrize("content", ["", "{", '{"version": 1, "sets": []}', "\x00" * 4096])
async def test_t15_a_damaged_store_asks_for_a_person_and_serves_on(tmp_path: Path, content: str) -> None:
    """Put aside, told once, no loop; a new sign-in is taken up by the same process."""
    bench = Bench(store=FileStore(tmp_path))
    (tmp_path / "tokens.json").write_text(content)
    (tmp_path / "tokens.json").chmod(0o600)
    bench.store = FileStore(tmp_path, emit=bench.events.append)
    async with bench.source() as source:
        assert source.status().state == "sign-in-required"
        with pytest.raises(SignInRequired):
            await source.token()
        assert len(bench.told(StoreTrouble)) == 1
        await source.adopt(bench.a_set())
        assert source.status().state == "ready"

    assert (tmp_path / "tokens.json.broken-1").read_text() == content
    assert bench.issuer.requests == []


# --- the configuration


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"])
@pytest.mark.parametrize("status", [400, 401])
async def test_t16_a_refused_client_costs_one_call(bench: Bench, code: str, status: int) -> None:
    """A38: told in the status while the token still serves; no further call in ten minutes of traffic."""
    await bench.sign_in()
    bench.issuer.script.extend(error(code, status=status) for _ in range(9))
    async with bench.source() as source:
        await bench.manual.advance(250)
        assert source.status().state == "ready"
        assert code in source.status().detail
        assert (await source.token()).access_token
        await bench.manual.advance(51)
        for _ in range(600):
            with pytest.raises(IdentityMisconfigured, match=r"check|choose"):
                await source.token()
            await bench.manual.advance(1)
        assert source.status().state == "misconfigured"

    assert bench.issuer.token_calls == 1
    assert len(bench.told(Misconfigured)) == 1


async def test_t16_an_issuer_that_is_another_one(bench: Bench) -> None:
    """A metadata document that names another issuer is final too: no token is shown to whoever that is."""
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    bench.issuer.metadata["issuer"] = "https://evil.example.org"
    async with bench.source() as source:
        for _ in range(100):
            with pytest.raises(IdentityMisconfigured, match="calls itself"):
                await source.token()
            await bench.manual.advance(6)

    assert bench.issuer.token_calls == 0
    assert bench.issuer.calls["openid-configuration"] == 1


@pytest.mark.parametrize("changed", ["sub", "azp"])
async def test_t28_somebody_elses_token_is_refused(bench: Bench, changed: str) -> None:
    """Told, never served, never stored, never asked for again."""
    stored = await bench.sign_in()
    said = bench.issuer.grant() | {
        "access_token": jwt(
            **{"sub": "alice", "azp": "client-tools", "preferred_username": "alice", changed: "mallory"}
        )
    }
    bench.issuer.script.extend(httpx2.Response(200, json=said) for _ in range(9))
    async with bench.source() as source:
        await bench.manual.advance(250)
        assert source.current() == stored
        await bench.manual.advance(600)
        with pytest.raises(IdentityMisconfigured, match="another"):
            await source.token()

    assert bench.issuer.token_calls == 1
    assert await bench.store.load("provena") == stored
    assert len(bench.told(Misconfigured)) == 1


# --- start and stop


@pytest.mark.parametrize("has_ended", [False, True])
async def test_t29_a_start_while_discovery_is_down(bench: Bench, has_ended: bool) -> None:
    """It starts; what is stored serves while it lives; ready comes by itself when the issuer is back."""
    age = 400 if has_ended else 100
    await bench.sign_in(expires_at=bench.clock.wall() + 300 - age, obtained_at=bench.clock.wall() - age)
    bench.issuer.is_down = True
    async with bench.source() as source:
        await bench.manual.advance(120)
        assert source.status().state == ("issuer-unavailable" if has_ended else "ready")
        bench.issuer.is_down = False
        await bench.manual.advance(61)
        assert source.status().state == "ready"
        assert source.current() is not None

    assert all(isinstance(one, RenewalFailed) for one in bench.told(RenewalFailed))


async def test_t29_metadata_are_not_asked_for_twice(bench: Bench) -> None:
    """Once read they serve for the life of the process, also while that part of the issuer is away."""
    await bench.sign_in()
    async with bench.source() as source:
        await bench.manual.advance(250)
        bench.issuer.metadata = {}
        await bench.manual.advance(3600)
        assert source.status().state == "ready"

    assert bench.issuer.calls["openid-configuration"] == 1


async def test_t30_a_sign_out_while_a_renewal_is_being_stored(bench: Bench) -> None:
    """The write is older than the sign-out: what it kept is revoked and deleted, and never served."""
    store = bench.store = SlowStore()
    await bench.sign_in(expires_at=bench.clock.wall() - 1)
    async with bench.source() as source:
        await store.is_writing.wait()
        signing_out = asyncio.ensure_future(source.sign_out())
        await bench.manual.advance(11)  # the wait for the flight is bounded
        assert source.status().state == "sign-in-required"
        store.may_write.set()
        await signing_out

        assert source.current() is None
        assert await store.load("provena") is None
        assert bench.issuer.live == set()
    assert bench.told(TokenRenewed) == []


async def test_t30_a_late_renewal_is_not_stored_where_the_sign_out_could_not_delete(bench: Bench) -> None:
    """A start that comes after would take it up: the one refresh token that was not revoked."""
    store = bench.store = SlowStore()
    store.may_write.set()
    stored = await bench.sign_in(expires_at=bench.clock.wall() - 1)
    gate = Gate(bench.issuer)
    bench.issuer.script.append(gate)
    async with bench.source() as source:
        await gate.reached.wait()
        store.deletes = False
        signing_out = asyncio.ensure_future(source.sign_out())
        await bench.manual.advance(11)
        assert "read-only" in await signing_out
        gate.open.set()
        await settle()

        assert source.current() is None
        assert await store.load("provena") == stored


async def test_t30_every_order_of_sign_out_and_renewal(bench: Bench) -> None:
    """Whichever is first, at each step of the other: the sign-in is gone in memory and in the store."""
    for steps in itertools.count():
        bench = Bench()
        await bench.sign_in(expires_at=bench.clock.wall() - 1)
        async with bench.source() as source:
            renewing = asyncio.ensure_future(source.token())
            await settle(steps)
            was_renewed = renewing.done()
            await source.sign_out()
            await bench.manual.advance(1)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

            assert source.current() is None
            assert await bench.store.load("provena") is None
            assert bench.issuer.live == set()
        if was_renewed:
            break
    assert steps > 3
