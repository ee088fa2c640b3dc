"""How a person is called: by programs of their own, which learn nothing but the link."""

import sys
from pathlib import Path

import pytest

from proxy.cli import calling
from proxy.config import Configuration, load
from tests.poll import eventually

TEXT = """
[identity.me]
issuer = "https://auth.example.org/realms/x"
client_id = "client-tools"
client_secret = "env:SECRET_OF_MINE"
[upstream.data]
url = "https://data.example.org"
identity = "me"
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    file = tmp_path / "proxy.toml"
    file.write_text(TEXT)
    return load(file, {"SECRET_OF_MINE": "canary"})


@pytest.mark.parametrize(
    ("is_interactive", "is_container", "is_called"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_only_a_person_in_front_of_this_machine_is_called(
    configuration: Configuration,
    monkeypatch: pytest.MonkeyPatch,
    is_interactive: bool,
    is_container: bool,
    is_called: bool,
) -> None:
    monkeypatch.setattr(calling, "is_interactive", lambda: is_interactive)
    monkeypatch.setattr(calling, "is_container", lambda _: is_container)

    assert (calling.caller(configuration) is not None) == is_called


@pytest.mark.skipif(sys.platform != "linux", reason="the programs of a Linux desktop stand in for all")
async def test_the_desktop_gets_the_sentence_and_no_secret(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S15: programs that we start see no secret."""
    for name in ("notify-send", "browser-of-mine"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/{name}.said\nenv > {tmp_path}/{name}.env\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("BROWSER", f"{tmp_path}/browser-of-mine %s")
    monkeypatch.setenv("SECRET_OF_MINE", "canary")
    monkeypatch.setattr(calling, "is_interactive", lambda: True)
    monkeypatch.setattr(calling, "is_container", lambda _: False)
    call = calling.caller(configuration)
    assert call is not None

    call("me", "http://localhost:8400/-/login/me")

    for name, words in (("notify-send", "waits for you to sign in as me"), ("browser-of-mine", "/-/login/me")):
        said, seen = tmp_path / f"{name}.said", tmp_path / f"{name}.env"
        await eventually(lambda seen=seen: seen.exists() and seen.stat().st_size, what=name)  # type: ignore[misc]  # mypy cannot infer the default
        assert words in said.read_text()
        assert "canary" not in seen.read_text()


@pytest.mark.parametrize(("platform", "program"), [("linux", "notify-send"), ("darwin", "osascript"), ("win32", None)])
def test_each_desktop_has_its_program(platform: str, program: str | None) -> None:
    command = calling.notice('A "quoted" word', platform)

    assert (command[0] if command else None) == program
    if platform == "darwin":
        assert command is not None
        assert '\\"quoted\\"' in command[-1]
