"""The commands, run in this process as their entry point runs them; journeys run them in processes of their own."""

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from proxy.cli import app, main
from proxy.clock import SystemClock
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests.conftest import free_port

NOON = 2_105_438_400.0  # of a day in September 2036, everywhere but at the date line

PLAIN = """
[identity.me]
issuer = "https://auth.example.org/realms/x"
client_id = "client-tools"

[upstream.data]
url = "https://data.example.org"
identity = "me"

[server]
port = {port}

[store]
kind = "{store}"
path = "{folder}"
"""


class Ran:
    """How a command ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        self.status = end.value.code or 0
        captured = capsys.readouterr()
        self.output, self.complaint = captured.out, captured.err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path, *, store: str = "file") -> Path:
    file = folder / "proxy.toml"
    file.write_text(PLAIN.format(port=free_port(), store=store, folder=folder / "store"))
    return file


def commands() -> Iterator[tuple[str, Any]]:  # Any: typer carries a click of its own, which it does not export
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined] # a group
        if hasattr(command, "commands"):
            yield from ((f"{name} {sub}", one) for sub, one in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_command_has_help_and_an_example_that_parses(name: str, command: Any) -> None:
    assert command.help
    assert command.epilog
    example = command.epilog.partition("Example: ")[2]
    assert f"bearerproxy {name}" in example
    arguments = example.partition(f"bearerproxy {name}")[2].split(")")[0].split(">")[0].split()
    command.make_context(name, arguments, resilient_parsing=False)
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "--version").output.startswith("bearerproxy 0.")


def test_every_command_but_the_ones_without_a_configuration_takes_config() -> None:
    for name, command in commands():
        if name not in ("demo", "config schema"):
            assert any("--config" in parameter.opts for parameter in command.params), name


def test_all_mistakes_are_told_at_once_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[server]\nprot = 1\n[upstream.a]\nurl = "ftp://x"\nidentity = "nobody"\n')
    ran = Ran(capsys, "check", "--config", file)
    assert ran.status == 2
    assert "3 mistakes" in ran.complaint
    assert "did you mean port?" in ran.complaint
    assert "Traceback" not in ran.complaint
    assert str(file) in ran.complaint


def test_a_good_configuration_is_said_to_be_good(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "check", "--config", config)
    assert (ran.status, ran.output) == (0, f"ok  {config}: me; /data\n")


def test_check_online_names_what_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "proxy.toml"
    gone = free_port()
    file.write_text(f'[upstream.data]\nurl = "http://127.0.0.1:{gone}"\nanonymous = true\n')
    ran = Ran(capsys, "check", "--online", "--config", file)
    assert ran.status == 1
    assert "refuses connections" in ran.output


def test_config_show_prints_the_expansion_and_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[provena]\ndomain = "example.org"\nrealm = "x"\nrefresh_token = "canary-offline-token"\n')
    ran = Ran(capsys, "config", "show", "--config", file)
    assert ran.status == 0
    assert "[upstream.provena_registry]" in ran.output
    assert "canary" not in ran.output + ran.complaint
    assert "warning" in ran.complaint  # a literal secret


def test_config_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert "upstream" in json.loads(Ran(capsys, "config", "schema").output)["properties"]


def test_urls_lists_what_to_give_to_tools(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Ran(capsys, "urls", "--config", config).output
    assert "/data" in output
    assert "https://data.example.org" in output


def test_a_token_without_a_sign_in_is_status_3_and_prints_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "token", "--config", config)
    assert (ran.status, ran.output) == (3, "")
    assert "bearerproxy login me" in ran.complaint


def test_a_stored_token_is_printed_without_asking_the_issuer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_token(config, life=300)
    ran = Ran(capsys, "token", "--config", config)
    assert (ran.status, ran.output) == (0, "canary-access\n")


def store_token(config: Path, *, life: float, **changes: Any) -> None:
    now = SystemClock().wall()
    token_set = TokenSet(
        "canary-access",
        now + life,
        now,
        client_id="client-tools",
        grant="device_code",
        refresh_token="canary-refresh",
        issuer="https://auth.example.org/realms/x",
        signed_in_at=now,
        epoch=1,
    )
    asyncio.run(FileStore(config.parent / "store").save("me", replace(token_set, **changes)))


def test_status_reads_the_store_when_nothing_runs_and_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_token(config, life=300)
    ran = Ran(capsys, "status", "--config", config, "--json")
    said = json.loads(ran.output)
    assert ran.status == 0
    assert said["source"] == "the token store; no proxy is running"
    assert said["identities"][0]["state"] == "stored"
    assert said["identities"][0]["ends"] == {"kind": "unknown", "at": None, "is_offline": False}
    assert "canary" not in ran.output


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"session_ends_at": NOON}, "19 Sep"),
        ({"refresh_expires_at": NOON}, " or later"),
        ({"scope": "offline_access"}, "no end is told"),
        ({}, "unknown"),
    ],
)
def test_status_says_when_the_sign_in_ends(
    config: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], shown: str
) -> None:
    store_token(config, life=300, **changes)
    ran = Ran(capsys, "status", "--config", config)
    assert "sign-in until" in ran.output
    assert shown in ran.output


def test_status_without_a_sign_in_is_status_3(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "status", "--config", config)
    assert ran.status == 3
    assert "bearerproxy login me" in ran.output


def test_logout_forgets_the_sign_in_though_the_issuer_is_away(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_token(config, life=300)
    ran = Ran(capsys, "logout", "--config", config)
    assert ran.status == 0
    assert "not everywhere" in ran.output
    assert Ran(capsys, "token", "--config", config).status == 3


def test_health_is_status_1_where_nothing_answers(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "health", "--config", config).status == 1


def test_health_needs_no_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image's HEALTHCHECK asks where [server] says, also while it runs the demo, whose identities are its own."""
    image = Path(__file__).parents[1] / "config" / "compose.toml"
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    config = tmp_path / "proxy.toml"
    config.write_text(image.read_text().replace("[server]", f"[server]\nport = {port}"))
    ran = Ran(capsys, "health", "--config", config)

    assert ran.status == 1
    assert ran.complaint.strip() == f"Nothing answers on port {port}."


def test_login_into_a_store_in_memory_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "login", "--config", written(tmp_path, store="memory"))
    assert ran.status == 2
    assert "only the page" in ran.complaint


def test_login_to_somewhere_unknown_is_refused_before_anything_is_asked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ran(capsys, "login", "--to", "somewhere", "--config", config).status == 2


def test_a_service_account_needs_no_login(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "proxy.toml"
    (tmp_path / "secret").write_text("s")
    file.write_text(
        '[identity.svc]\nissuer = "https://auth.example.org"\nclient_id = "svc"\ngrant = "client_credentials"\n'
        f'client_secret = "file:{tmp_path / "secret"}"\n'
    )
    ran = Ran(capsys, "login", "--config", file)
    assert ran.status == 2
    assert "needs no sign-in by a person" in ran.complaint


def test_an_unknown_identity_is_named_with_those_there_are(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "login", "nobody", "--config", config)
    assert ran.status == 2
    assert "there is: me" in " ".join(ran.complaint.split())


def test_the_demo_reads_each_of_its_urls_once(capsys: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    ran = Ran(capsys, "demo", "--once", "--port", "0")
    assert ran.status == 0, ran.output + ran.complaint
    assert ran.output.count("200, ") == 5
    assert "signed in as ada" in ran.output
    assert threading.active_count() <= threads + 1


@pytest.mark.skipif(os.name == "nt", reason="file modes say nothing on Windows")
def test_a_private_file_is_replaced_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    from proxy.stores.private import replace_private

    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    replace_private(path, b"canary")
    assert path.read_bytes() == b"canary"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["token"]
