"""`login --from`, as its entry point runs it, against an issuer that rotates refresh tokens and detects reuse."""

import asyncio
import getpass
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from proxy.cli.command import run
from proxy.demo import Demo
from proxy.demo.issuer import DemoIssuer
from tests.conftest import free_port
from tests.test_cli import Ran

CONFIG = """
[provena]
issuer = "{issuer}"
data = "https://data.example.org"

[server]
port = {port}

[store]
kind = "file"
path = "{store}"
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[DemoIssuer]:
    """The demo's issuer on a thread of its own, because the commands run event loops of their own."""
    begun: Future[tuple[Demo, asyncio.Event, asyncio.AbstractEventLoop]] = Future()

    async def keep() -> None:
        async with Demo(rotation=True) as demo:
            end = asyncio.Event()
            begun.set_result((demo, end, asyncio.get_running_loop()))
            await end.wait()

    thread = threading.Thread(target=lambda: run(keep()))
    thread.start()
    demo, end, loop = begun.result(30)
    yield demo.issuer
    loop.call_soon_threadsafe(end.set)
    thread.join(30)


@pytest.fixture
def config(tmp_path: Path, issuer: DemoIssuer) -> Path:
    file = tmp_path / "proxy.toml"
    file.write_text(CONFIG.format(issuer=issuer.url, port=free_port(), store=tmp_path / "store"))
    return file


def granted(issuer: DemoIssuer, client: str = "client-tools", scope: str = "") -> dict[str, str]:
    """Return the tokens of a sign-in by another program."""
    said = issuer.mint(client, "ada", scope) if scope else issuer.mint(client, "ada")
    return {name: said[name] for name in ("access_token", "refresh_token")}


def cache_of(folder: Path, **stages: dict[str, str]) -> Path:
    file = folder / ".tokens.json"
    file.write_text(json.dumps({"stages": {"TEST": None, "PROD": None, **stages}}))
    return file


def test_the_cache_of_mds_is_client_tools_becomes_a_sign_in(
    config: Path, tmp_path: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = granted(issuer)
    ran = Ran(capsys, "login", "--from", cache_of(tmp_path, PROD=tokens), "--config", config)
    words = " ".join(ran.complaint.split())

    assert ran.status == 0, words
    assert "Signed in to provena as ada (client-tools)" in words
    assert ".tokens.json still holds the old refresh token" in words
    assert not [one for one in tokens.values() if one in ran.output + ran.complaint]
    token = Ran(capsys, "token", "--config", config)
    assert token.status == 0
    assert token.output.strip() not in tokens.values()

    again = Ran(capsys, "login", "--from", tmp_path / ".tokens.json", "--config", config)
    assert again.status == 1, "the issuer rotates, so the old file is useless"
    assert "is not good, or no longer" in " ".join(again.complaint.split())


def test_the_cache_of_provenaclient_becomes_one(
    config: Path, tmp_path: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".tokens.json"
    file.write_text(json.dumps(granted(issuer)))

    assert Ran(capsys, "login", "provena", "--from", file, "--config", config).status == 0


def test_an_offline_token_on_standard_input_is_renewed_by_its_own_client(
    config: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = granted(issuer, "automated-access", "roles offline_access")["refresh_token"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(token + "\n"))
    ran = Ran(capsys, "login", "--from", "-", "--config", config)
    words = " ".join(ran.complaint.split())

    assert ran.status == 0, words
    assert "as ada (automated-access): it does not end with the session" in words
    assert "still holds" not in words
    assert token not in ran.output + ran.complaint


def test_a_person_who_pastes_a_token_does_not_see_it(
    config: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    token = granted(issuer)["refresh_token"]
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: token)

    assert Ran(capsys, "login", "--from", "-", "--config", config).status == 0


def test_a_stage_is_chosen_where_there_are_several(
    config: Path, tmp_path: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = cache_of(tmp_path, PROD=granted(issuer), DEV={"access_token": "a", "refresh_token": "canary-of-dev"})
    unsaid = Ran(capsys, "login", "--from", file, "--config", config)
    wrong = Ran(capsys, "login", "--from", file, "--stage", "STAGE", "--config", config)

    assert (unsaid.status, wrong.status) == (2, 2)
    assert "there is: PROD, DEV" in " ".join(unsaid.complaint.split())
    assert "canary" not in unsaid.complaint + wrong.complaint
    assert Ran(capsys, "login", "--from", file, "--stage", "PROD", "--config", config).status == 0


def test_a_refused_token_leaves_the_sign_in_that_was_there(
    config: Path, tmp_path: Path, issuer: DemoIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ran(capsys, "login", "--from", cache_of(tmp_path, PROD=granted(issuer)), "--config", config).status == 0
    bad = tmp_path / "bad"
    bad.write_text("canary-refresh")
    ran = Ran(capsys, "login", "--from", bad, "--config", config)

    assert ran.status == 1
    assert "Nothing has changed." in " ".join(ran.complaint.split())
    assert "canary" not in ran.output + ran.complaint
    assert Ran(capsys, "token", "--config", config).status == 0


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"two words"], ids=["missing", "not text", "not a token"])
def test_a_file_that_cannot_be_used_is_one_sentence(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = tmp_path / "given"
    if content is not None:
        file.write_bytes(content)
    ran = Ran(capsys, "login", "--from", file, "--config", config)

    assert ran.status == 1
    assert ran.complaint.startswith("error: ")
    assert "Traceback" not in ran.complaint


def test_a_stage_without_a_file_is_wrong_usage(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "login", "--stage", "PROD", "--config", config).status == 2
