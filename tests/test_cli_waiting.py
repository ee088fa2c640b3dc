"""`wait`: its decisions by table, and the command against a proxy that runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from proxy.cli.local import LocalAnswer
from proxy.cli.waiting import Verdict, duration, of_forecasts, of_readiness, waited
from proxy.clock import ManualClock, SystemClock
from proxy.demo import Demo, Lifetimes
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests.command import bearerproxy, serving
from tests.conftest import free_port

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC
HOUR = 3_600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("6h", 21_600), ("2d", 172_800), ("1.5h", 5_400), (" 0 ", 0), (300.0, 300)],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5", "6 hours", "1h30m", "6H", "1e3"])
def test_what_is_no_duration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90, 90s, 10m, 6h or 2d"):
        duration(text)


# What one look means


def said(status: int, body: object) -> LocalAnswer:
    return LocalAnswer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (None, Verdict(None, "no proxy answers there yet.")),
        (said(200, {"status": "ready"}), Verdict(0, "ready")),
        (
            said(503, {"reasons": [{"identity": "me", "state": "sign-in-required", "detail": "Sign in."}]}),
            Verdict(None, "me: Sign in."),
        ),
        (
            said(503, {"reasons": [{"identity": one, "state": "starting", "detail": ""} for one in ("a", "b")]}),
            Verdict(None, "a: starting; b: starting"),
        ),
        (said(404, {"detail": "No identity has this name."}), Verdict(None, "No identity has this name.")),
        (said(502, b"<html>"), Verdict(None, "it answers with status 502.")),
        (said(503, b"[1]"), Verdict(None, "it answers with status 503.")),
        (said(503, {"reasons": [{}]}), Verdict(None, "it answers with status 503.")),
    ],
)  # fmt: skip
def test_what_readiness_means(answer: LocalAnswer | None, verdict: Verdict) -> None:
    assert of_readiness(answer) == verdict


def row(kind: str, at: str | None = None, *, is_offline: bool = False, name: str = "me") -> dict[str, Any]:
    return {"name": name, "ends": {"kind": kind, "at": at, "is_offline": is_offline}}


@pytest.mark.parametrize(
    ("rows", "exit_status", "words"),
    [
        pytest.param([row("known", "2025-06-15T21:06:40Z")], 0, "ready", id="just long enough"),
        pytest.param([row("known", "2025-06-15T21:06:39Z")], 3, "'me' ends ", id="a second too short"),
        pytest.param([row("at-least", "2025-06-16T00:00:00Z")], 0, "ready", id="at least long enough"),
        pytest.param([row("at-least", "2025-06-15T15:36:40Z")], 3, "'me' is certain only until ", id="not certain"),
        pytest.param([row("unknown", is_offline=True)], 0, "ready", id="offline"),
        pytest.param([row("unknown")], 3, "Nobody says when the sign-in of 'me' ends", id="nobody says"),
        pytest.param([{"name": "me", "ends": None}], 3, "Nobody says", id="no forecast"),
        pytest.param([row("none")], 0, "ready", id="a service account"),
        pytest.param([row("none"), row("unknown", name="you")], 3, "'you'", id="one of two"),
        pytest.param([], None, "does not say", id="nothing said"),
    ],
)
def test_whether_the_sign_ins_last(rows: list[dict[str, Any]], exit_status: int | None, words: str) -> None:
    verdict = of_forecasts(rows, 6 * HOUR, NOW)

    assert verdict.exit_status == exit_status
    assert words in verdict.sentence
    if exit_status == 3:
        assert verdict.sentence.endswith(f"run: bearerproxy login {rows[-1]['name']} --offline")
        assert "6 h" in verdict.sentence


# Looking again and again


class Stepping(ManualClock):
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._boot += seconds
        self._wall += seconds


class Proxy:
    """Answers by script; the last answer of a path stays."""

    def __init__(self, ready: list[LocalAnswer | None], identities: list[dict[str, Any]] | None = None) -> None:
        self.ready = ready
        self.identities = identities or []
        self.asked: list[str] = []

    def __call__(self, path: str) -> LocalAnswer | None:
        self.asked.append(path)
        if path == "/-/identities.json":
            return said(200, self.identities)
        return self.ready.pop(0) if len(self.ready) > 1 else self.ready[0]


READY = said(200, {})
WAITS = said(503, {"reasons": [{"identity": "me", "state": "starting", "detail": ""}]})


async def outcome(
    proxy: Callable[[str], LocalAnswer | None], name: str | None = None, valid_for: float | None = None
) -> tuple[Verdict, Stepping, list[str]]:
    clock, told = Stepping(), list[str]()
    verdict = await waited(proxy, name, valid_for=valid_for, timeout_seconds=60, clock=clock, told=told.append)
    return verdict, clock, told


async def test_ready_at_once_costs_one_question() -> None:
    proxy = Proxy([READY])
    verdict, clock, told = await outcome(proxy, "my/me")

    assert (verdict, clock.slept, told) == (Verdict(0, "ready"), [], [])
    assert proxy.asked == ["/-/ready?identity=my%2Fme"]


async def test_each_reason_is_told_once_and_the_proxy_is_not_pestered() -> None:
    verdict, clock, told = await outcome(Proxy([None, None, WAITS, WAITS, WAITS, READY]))

    assert verdict.exit_status == 0
    assert told == ["no proxy answers there yet.", "me: starting"]
    assert clock.slept == [0.25, 0.5, 1, 2, 2]


async def test_the_end_of_the_wait_tells_the_last_reason() -> None:
    verdict, clock, _ = await outcome(Proxy([WAITS]))

    assert verdict == Verdict(1, "Not ready within 1 min: me: starting")
    assert sum(clock.slept) == 60
    assert len(clock.slept) < 35


async def test_a_sign_in_that_is_too_short_is_not_waited_for() -> None:
    proxy = Proxy(
        [WAITS, READY], [row("known", "2025-06-15T16:00:00Z"), row("known", "2025-06-15T16:00:00Z", name="you")]
    )
    verdict, clock, _ = await outcome(proxy, "me", 6 * HOUR)

    assert verdict.exit_status == 3
    assert "'you'" not in verdict.sentence
    assert clock.slept == [0.25]


async def test_only_the_named_sign_in_has_to_last() -> None:
    proxy = Proxy([READY], [row("none"), row("unknown", name="you")])

    assert (await outcome(proxy, "me", 6 * HOUR))[0].exit_status == 0
    assert (await outcome(proxy, None, 6 * HOUR))[0].exit_status == 3


# The command


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """Sessions that end after half an hour, used or not: what a refresh token has left is what the sign-in has left."""
    async with Demo(lifetimes=Lifetimes(access_seconds=6, sso_max_seconds=1_800)) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, demo: Demo) -> Path:
    file = tmp_path / "proxy.toml"
    file.write_text(f"""
        [provena]
        issuer = "{demo.issuer_url}"
        data = "{demo.data_url}"
        [server]
        port = {free_port()}
        [store]
        kind = "file"
        path = "{tmp_path / "store"}"
    """)
    return file


async def sign_in(demo: Demo, config: Path, client: str = "client-tools", scope: str = "") -> None:
    said, now = demo.issuer.mint(client, "ada", scope), SystemClock().wall()
    store = FileStore(config.parent / "store")
    token_set = TokenSet(
        said["access_token"],
        now + said["expires_in"],
        now,
        client_id=client,
        grant="device_code",
        refresh_token=said["refresh_token"],
        refresh_expires_at=now + said["refresh_expires_in"] if said["refresh_expires_in"] else None,
        signed_in_at=now,
        issuer=demo.issuer_url,
        epoch=(await store.trace("provena")).epoch + 1,
    )
    assert await store.save("provena", token_set)


def port_of(config: Path) -> int:
    return int(config.read_text().partition("port = ")[2].split()[0])


async def test_a_proxy_that_does_not_run_is_waited_for_until_the_end(config: Path) -> None:
    ended = await bearerproxy("wait", "--timeout", "1s", "--config", config)

    assert ended.exit_status == 1
    assert "waiting: no proxy answers there yet." in ended.words
    assert "Not ready within 1 s" in ended.words


async def test_wrong_words_are_wrong_usage(config: Path) -> None:
    both = await asyncio.gather(
        bearerproxy("wait", "nobody", "--config", config),
        bearerproxy("wait", "--valid-for", "tomorrow", "--config", config),
    )

    assert [one.exit_status for one in both] == [2, 2]
    assert "'tomorrow' is no duration" in both[1].words


async def test_the_wait_ends_when_somebody_has_signed_in(demo: Demo, config: Path) -> None:
    async with serving(config, port=port_of(config)):
        waiting = asyncio.ensure_future(bearerproxy("wait", "provena", "--timeout", "60", "--config", config))
        early = await bearerproxy("wait", "--timeout", "0", "--config", config)
        await sign_in(demo, config)
        ended = await waiting

    assert early.exit_status == 1
    assert "bearerproxy login provena" in early.words
    assert (ended.exit_status, ended.output) == (0, "ready\n")


async def test_a_job_for_the_night_needs_a_sign_in_that_lasts(demo: Demo, config: Path) -> None:
    await sign_in(demo, config)
    async with serving(config, port=port_of(config)) as proxy:
        async with asyncio.timeout(60):
            while (ends := (await proxy.get("/-/ready")).json().get("ends", {}).get("provena", {})).get(
                "kind"
            ) != "known":
                await SystemClock().sleep(0.2)
        short = await bearerproxy("wait", "--valid-for", "6h", "--config", config)
        enough = await bearerproxy("wait", "--valid-for", "10m", "--config", config)
        await sign_in(demo, config, "automated-access", "roles offline_access")
        async with asyncio.timeout(60):
            while not (await proxy.get("/-/ready")).json()["ends"]["provena"]["is_offline"]:
                await SystemClock().sleep(0.2)
        offline = await bearerproxy("wait", "provena", "--valid-for", "6h", "--config", config)
        told = [event for event in proxy.events if event["event"] == "sign-in-ending"]
        state = (await proxy.get("/-/identities.json")).json()[0]

    assert ends["at"] is not None
    assert short.exit_status == 3
    assert "before 6 h are over" in short.words
    assert short.words.endswith("run: bearerproxy login provena --offline")
    assert (enough.exit_status, offline.exit_status) == (0, 0), enough.words + offline.words
    assert [round(event["seconds"], -3) for event in told] == [2_000]
    assert state["ends"] == {"kind": "unknown", "at": None, "is_offline": True}
    assert state["renewals"] >= 1
    assert state["failed_renewals"] == {}
