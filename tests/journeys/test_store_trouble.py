"""A42: a store that is unsafe, damaged, full or closed is told in one sentence and does not stop what memory can do."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.clock import SystemClock
from proxy.demo import Demo, Lifetimes
from proxy.errors import SignInRequired
from proxy.events import StoreTrouble
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests import command
from tests.bench import Bench
from tests.conftest import need_program
from tests.poll import eventually
from tests.test_hardening import as_people_do

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX; Windows has access lists")

IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
STRANGER = 12345
LIFE = 5
"""Seconds; tokens say their end in whole ones, so that a shorter life may end before it is renewed."""


def _links(file: Path) -> None:
    there = file.with_name("elsewhere.json")
    file.rename(there)
    file.symlink_to(there)


def _given(file: Path, to: int = STRANGER) -> None:
    if sys.platform != "win32":
        os.chown(file, to, -1)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "others may read it": (lambda file: file.chmod(0o644), "can be read by other users; close it: chmod 600 "),
    "symbolic link": (_links, "is a symbolic link; replace it by a file: mv "),
    "foreign owner": (_given, "belongs to another user; make it yours: sudo chown "),
    "truncated": (
        lambda file: os.truncate(file, 40),
        "was damaged; it is kept as tokens.json.broken-1, and you have to",
    ),
    "emptied": (lambda file: os.truncate(file, 0), "was damaged; it is kept as tokens.json.broken-1, and you have to"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a42_a_start_from_a_bad_file_says_why_and_asks_nobody(tmp_path: Path, damage: str) -> None:
    """Refused or put aside with one sentence; then a sign-in is asked for, and no issuer."""
    if damage == "foreign owner" and not IS_ROOT:
        pytest.skip("only root can give a file away; run the suite as root, as CI does")
    do, sentence = DAMAGES[damage]
    bench = Bench(clock=SystemClock(), store=FileStore(tmp_path))
    bench.store = FileStore(tmp_path, emit=bench.events.append)
    await bench.sign_in()
    do(tmp_path / "tokens.json")

    async with bench.source() as source:
        with pytest.raises(SignInRequired) as caught:
            await source.token()
        told = [event.reason for event in bench.told(StoreTrouble) if isinstance(event, StoreTrouble)]

        assert len(told) == 1
        assert sentence in told[0]
        assert "\n" not in told[0] + caught.value.detail
        assert sentence in caught.value.detail or "bearerproxy login provena" in caught.value.detail
    assert bench.issuer.token_calls == 0


async def test_a42_what_was_put_aside_is_kept_as_it_was(tmp_path: Path) -> None:
    bench = Bench(clock=SystemClock(), store=FileStore(tmp_path))
    await bench.sign_in()
    os.truncate(tmp_path / "tokens.json", 40)
    part = await asyncio.to_thread((tmp_path / "tokens.json").read_bytes)
    async with bench.source() as source:
        assert source.status().state == "sign-in-required"

    assert await asyncio.to_thread((tmp_path / "tokens.json.broken-1").read_bytes) == part


async def test_a42_a_stranger_may_not_be_read_as_anybody_else(tmp_path: Path) -> None:
    """Without root's rights the file cannot even be opened: the sentence is the same."""
    if not IS_ROOT:
        pytest.skip("only root can give a file away; run the suite as root, as CI does")
    await FileStore(tmp_path).save("me", TokenSet("canary-access", 0.0, 0.0, client_id="c", grant="device_code"))
    _given(tmp_path / "tokens.json")
    config = tmp_path / "proxy.toml"
    await asyncio.to_thread(
        config.write_text, CONFIG.format(issuer="https://a.example.org", data="https://b.example.org", store=tmp_path)
    )
    process = await command.started("token", "--config", config, before=as_people_do())
    _, complaint = await process.communicate()

    assert process.returncode == 3
    assert "belongs to another user" in complaint.decode()


CONFIG = """
[identity.me]
issuer = "{issuer}"
client_id = "client-tools"

[upstream.data]
url = "{data}"
identity = "me"

[store]
kind = "file"
path = "{store}"

[log]
level = "debug"
format = "json"
"""


class Going:
    """A real server in front of the demo, with tokens of five seconds, and a look at what it says."""

    def __init__(self, demo: Demo, serving: command.Serving, file: Path) -> None:
        self.demo = demo
        self.serving = serving
        self.file = file

    @property
    def troubles(self) -> list[str]:
        return [event["reason"] for event in self.serving.events if event["event"] == "store-trouble"]

    @property
    def renewals(self) -> int:
        return sum(event["event"] == "token-renewed" for event in self.serving.events)

    async def serve_past(self, past: int, count: Callable[[], int], what: str) -> None:
        """Let callers come, each of whom must be served, the last of them after `count` is higher than `past`."""

        async def served() -> bool:
            is_enough = count() > past
            answer: httpx2.Response = await self.serving.get("/data/demo/coral-cover.csv")
            assert answer.status_code == 200, answer.text
            return is_enough

        await eventually(served, 40, every=0.2, what=what)

    async def is_stored_again(self) -> None:
        """Wait until the file is there, closed, and holds what was renewed after now."""
        now = SystemClock().wall()

        def is_new() -> bool:
            if not self.file.is_file() or self.file.is_symlink() or self.file.stat().st_mode & 0o077:
                return False
            return bool(json.loads(self.file.read_text())["sets"].get("me", {}).get("obtained_at", 0) > now)

        await eventually(is_new, 40, what="the write that was made up for")


@pytest.mark.long
async def test_a42_serving_goes_on_where_memory_has_a_token(tmp_path: Path, *, is_long: bool) -> None:
    """One trouble after the other befalls a server; its callers see none of them, and each repair is found by itself.

    Refresh tokens work once here: what memory alone knows is written as soon as that is possible again.
    """
    prlimit = need_program("prlimit", how="apt-get install util-linux")
    state, config = tmp_path / "state", tmp_path / "proxy.toml"
    file = state / "tokens.json"
    async with Demo(rotation=True, lifetimes=Lifetimes(access_seconds=LIFE)) as demo:
        config.write_text(CONFIG.format(issuer=demo.issuer_url, data=demo.data_url, store=state))
        given, now = demo.issuer.mint("client-tools", "ada"), SystemClock().wall()
        await FileStore(state).save("me", TokenSet(
            str(given["access_token"]), now + LIFE, now, client_id="client-tools", grant="device_code",
            refresh_token=str(given["refresh_token"]), issuer=demo.issuer_url,
        ))  # fmt: skip
        async with command.serving(config, before=as_people_do()) as serving:
            going = Going(demo, serving, file)
            limits = (prlimit, f"--pid={serving.process.pid}")

            def limit(size: str) -> None:
                subprocess.run([*limits, f"--fsize={size}"], check=True)

            def relink() -> None:
                file.unlink()
                file.with_name("elsewhere.json").rename(file)

            troubles: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
                (
                    lambda: file.chmod(0o640),
                    lambda: file.chmod(0o600),
                    "can be read by other users; close it: chmod 600",
                ),
                (lambda: _links(file), relink, "is a symbolic link"),
                (lambda: os.truncate(file, 30), lambda: None, "was damaged; it is kept as tokens.json.broken-1"),
                (lambda: limit("100:unlimited"), lambda: limit("unlimited"), "cannot be used: File too large."),
                (lambda: state.chmod(0o500), lambda: state.chmod(0o700), "cannot be used: Permission denied."),
                (
                    lambda: state.chmod(0o777),
                    lambda: state.chmod(0o700),
                    "can be written by everybody; close it: chmod",
                ),
            ]
            if IS_ROOT:
                troubles.append((lambda: _given(file), lambda: _given(file, 0), "belongs to another user"))
            for harm, repair, sentence in troubles if is_long else troubles[::2]:
                before = len(going.troubles)
                harm()
                await going.serve_past(before, lambda: len(going.troubles), f"trouble: {sentence}")
                await going.serve_past(going.renewals, lambda: going.renewals, "a renewal that memory alone has")
                told = going.troubles[before:]
                assert any(sentence in one for one in told), (sentence, told)
                assert len(told) <= 2, told
                assert all(re.fullmatch(r"The token store.*[^\n]", one) for one in told)
                repair()
                await going.is_stored_again()
            assert (await serving.get("/-/ready")).status_code == 200
            assert await serving.stop() == 0
        ended = await command.bearerproxy("token", "--config", config)

    assert ended.exit_status == 0, ended.complaint
    assert not list(state.glob(".tokens-*"))
    assert "Traceback" not in "".join(serving.lines)
