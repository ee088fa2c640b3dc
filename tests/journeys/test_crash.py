"""A35: killed at any step of a renewal, the store holds the old set or the new one, and the next start knows it."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo import Demo
from proxy.errors import SignInRequired
from proxy.issuer import Issuer
from proxy.stores import FileStore
from proxy.token_source import TokenSource
from proxy.tokens import TokenSet
from tests.journeys.killed import SIGKILL, identity_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and fork are POSIX")
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def killed(folder: Path, issuer_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.journeys.killed", folder, issuer_url,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def killed_at(process: asyncio.subprocess.Process, step: int) -> int:
    """Return the signal that ended a renewal which dies at `step`; 0 if it ended before that."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % step)
    async with asyncio.timeout(60):
        status = int(await process.stdout.readline())
    assert status in (0, SIGKILL), f"step {step}: the renewal failed"
    return status


def signed_in(demo: Demo) -> TokenSet:
    """Return a new sign-in whose access token has ended, so that the next one who asks renews."""
    given, now = demo.issuer.mint("client-tools", "ada"), SystemClock().wall()
    return TokenSet(
        access_token=str(given["access_token"]), refresh_token=str(given["refresh_token"]), expires_at=now - 60,
        obtained_at=now - 360, client_id="client-tools", grant="device_code", issuer=demo.issuer_url,
    )  # fmt: skip


def token_calls(demo: Demo) -> int:
    return sum(count for (endpoint, _), count in demo.issuer.calls.items() if endpoint == "token")


async def next_start(folder: Path, demo: Demo) -> str:
    """Start as after a crash; return `ready`, or `sign-in-required` once that was said twice and asked once."""
    identity = identity_of(demo.issuer_url)
    issuer = Issuer(identity, clock=SystemClock())
    source = TokenSource(identity, issuer=issuer, store=FileStore(folder), clock=SystemClock())
    before = token_calls(demo)
    await source.start()
    try:
        outcomes = set()
        for _ in range(2):
            try:
                await source.token()
                outcomes.add("ready")
            except SignInRequired:
                outcomes.add("sign-in-required")
    finally:
        await source.close()
        await issuer.close()
    assert token_calls(demo) - before <= 1, "a loop"
    assert len(outcomes) == 1
    return outcomes.pop()


@pytest.mark.long
async def test_a35_killed_at_any_step_the_store_is_old_or_new(tmp_path: Path, *, is_long: bool) -> None:
    """By SIGKILL, before and after every file, lock and socket operation, with refresh tokens that work once.

    Between the issuer's answer and the rename the only copy of the new refresh token dies with the process: then the
    next start says *sign-in required*, after one call. That window cannot be closed on our side (T11).
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    async with Demo(rotation=True) as demo, killed(tmp_path, demo.issuer_url) as process:
        store = FileStore(tmp_path)
        step = 1
        while True:
            old = signed_in(demo)
            await store.save("me", old)
            ended_by = await killed_at(process, step)
            left = await asyncio.to_thread((tmp_path / "tokens.json").read_bytes)
            assert json.loads(left)["sets"]["me"]["access_token"], f"step {step}: a partial file"
            found = await store.load("me")
            assert found is not None
            which = "old" if found == old else "new"
            outcomes[which, await next_start(tmp_path, demo)] += 1
            await store.save("me", old)
            assert ".tokens-" not in str(await asyncio.to_thread(os.listdir, tmp_path)), (
                "what the dead one began is swept up"
            )
            if not ended_by:
                break
            step += 1 if is_long else 5

    assert which == "new", "the last one ran to its end"
    assert {*outcomes} == {("old", "ready"), ("old", "sign-in-required"), ("new", "ready")}
