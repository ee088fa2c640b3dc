"""An identity that is stopped because of a secret tries again once that changes, without a restart (T16)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.events import Misconfigured
from proxy.identities import Grant
from proxy.secret_refs import Secret
from tests.bench import Bench
from tests.poll import eventually
from tests.scripted_issuer import error, identity


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("wrong\n")
    return path


def put(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


def knows(bench: Bench, right: str) -> None:
    """Let the issuer refuse whoever shows another secret or password."""

    async def judge(form: dict[str, str]) -> httpx2.Response:
        shown = form.get("password") or form.get("client_secret")
        return bench.issuer.judge(form) if shown == right else error("invalid_client", status=401)

    bench.issuer.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    bench.issuer.outage = judge


async def passing(bench: Bench, condition: Callable[[], object], *, what: str) -> None:
    """Let the bench's time pass until `condition` holds; what is read in a thread takes real time, too."""

    async def is_there() -> object:
        await bench.manual.advance(1)
        return condition()

    await eventually(is_there, every=0.01, what=what)


async def long_after(bench: Bench) -> None:
    """Let an hour pass, and every look that it brings."""
    for _ in range(360):
        await bench.manual.advance(10)
        await eventually(lambda: not any(one.get_name() == "look at secrets" for one in asyncio.all_tasks()), every=0)


SECRETS: dict[Grant, Callable[[Secret], dict[str, Any]]] = {
    Grant.CLIENT_CREDENTIALS: lambda secret: {"client_secret": secret},
    Grant.PASSWORD: lambda secret: {"username": "alice", "password": secret},
}


@pytest.mark.parametrize("grant", SECRETS)
async def test_t16_each_value_in_the_file_is_tried_once(bench: Bench, file: Path, grant: Grant) -> None:
    """The wrong one is never shown again, however long it stays there; the right one serves within seconds."""
    knows(bench, "right")
    async with bench.source(identity(grant, **SECRETS[grant](Secret.parse(f"file:{file}")))) as source:
        await passing(bench, lambda: source.status().state == "misconfigured", what="refusal")
        await long_after(bench)
        assert bench.issuer.token_calls == 1

        put(file, "wrong, too\n")
        await passing(bench, lambda: bench.issuer.token_calls == 2, what="the second value")
        put(file, "right\n")
        await passing(bench, lambda: source.status().state == "ready", what="the third value")

    assert bench.issuer.token_calls == 3
    assert len(bench.told(Misconfigured)) == 2


async def test_t16_a_sign_in_survives_a_wrong_client_secret(bench: Bench, file: Path) -> None:
    """The refresh token was not spent: with the right secret it goes on."""
    knows(bench, "right")
    stored = await bench.sign_in()
    async with bench.source(identity(client_secret=Secret.parse(f"file:{file}"))) as source:
        await passing(bench, lambda: source.status().detail, what="refusal")
        put(file, "right\n")
        await passing(bench, lambda: source.current() not in (None, stored), what="the next token")

    assert bench.issuer.token_calls == 2
    assert bench.issuer.reuses == 0


async def test_t16_another_seed_signs_in(bench: Bench, file: Path) -> None:
    """A refresh token that is no longer good is replaced in its file: a new sign-in, as after a restart."""
    who = identity(Grant.REFRESH_TOKEN, refresh_token=Secret.parse(f"file:{file}"))
    bench.issuer.live.add("canary-seed")
    async with bench.source(who) as source:
        await passing(bench, lambda: source.status().state == "sign-in-required", what="refusal")
        bench.issuer.live.add("canary-seed")  # the reuse had ended the session; this is another one
        put(file, "canary-seed\n")
        await passing(bench, lambda: source.status().state == "ready", what="the new sign-in")

    assert [form["refresh_token"] for form in bench.issuer.forms] == ["wrong", "canary-seed"]


async def test_t16_a_secret_that_is_being_replaced(bench: Bench, file: Path) -> None:
    """There is a moment without a file: it is looked at again, and nobody is told of it."""
    knows(bench, "right")
    who = identity(Grant.CLIENT_CREDENTIALS, client_secret=Secret.parse(f"file:{file}"))
    async with bench.source(who) as source:
        await passing(bench, lambda: source.status().state == "misconfigured", what="refusal")
        put(file, None)
        await long_after(bench)
        assert source.status().state == "misconfigured"
        put(file, "right\n")
        await passing(bench, lambda: source.status().state == "ready", what="the right one")

    assert bench.issuer.token_calls == 2


async def test_t16_a_secret_that_cannot_change_is_not_looked_at(bench: Bench) -> None:
    """What stands in the configuration or the environment stays as it is while the process runs."""
    knows(bench, "right")
    secret = Secret.parse("env:SECRET", environ={"SECRET": "wrong"})
    async with bench.source(identity(Grant.CLIENT_CREDENTIALS, client_secret=secret)) as source:
        await passing(bench, lambda: source.status().state == "misconfigured", what="refusal")
        for _ in range(100):
            await bench.manual.advance(1)
            assert not any(one.get_name() == "look at secrets" for one in asyncio.all_tasks())


async def test_t16_a_command_is_asked_once_a_minute(bench: Bench, tmp_path: Path) -> None:
    """It may be slow, and starts a process: more often than that it is not run."""
    counter = tmp_path / "runs"
    script = tmp_path / "secret.sh"
    script.write_text(f"#!/bin/sh\necho run >> {counter}\necho wrong\n")
    script.chmod(0o700)
    knows(bench, "right")
    who = identity(Grant.CLIENT_CREDENTIALS, client_secret=Secret.parse(f"command:{script}"))
    async with bench.source(who) as source:
        await passing(bench, lambda: source.status().state == "misconfigured", what="refusal")
        for _ in range(60):
            await bench.manual.advance(10)
            await eventually(
                lambda: not any(one.get_name() == "look at secrets" for one in asyncio.all_tasks()), every=0
            )

    assert 9 <= len(counter.read_text().splitlines()) <= 11
