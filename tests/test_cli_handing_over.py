"""`login --to`, with the real command in a process of its own and a person at the demo's issuer."""

import json
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo import Demo
from proxy.stores import FileStore
from tests import command
from tests.command import Ended
from tests.conftest import free_port
from tests.test_cli import Ran, written
from tests.vault import TOKEN, Vault, vault

CONFIG = """
[identity.me]
issuer = "{issuer}"
client_id = "client-tools"

[store]
kind = "file"
path = "{store}"
"""


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with Demo() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, demo: Demo) -> Path:
    file = tmp_path / "proxy.toml"
    file.write_text(CONFIG.format(issuer=demo.issuer_url, store=tmp_path / "store"))
    return file


@pytest.fixture
def kv(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    with vault() as there:
        monkeypatch.setenv("VAULT_ADDR", there.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield there


async def signed_in(demo: Demo, config: Path, to: str) -> Ended:
    async with command.login("me", "--offline", "--to", to, "--config", config) as waiting:
        demo.issuer.approve(waiting.link.rpartition("user_code=")[2])
        return await waiting.end()


async def refresh_token(config: Path) -> str:
    held = await FileStore(config.parent / "store").load("me")
    assert held is not None
    assert held.refresh_token is not None
    return held.refresh_token


def refused(capsys: pytest.CaptureFixture[str], folder: Path, to: str) -> Ran:
    """Run a login that must end before anybody is asked to sign in: its issuer does not exist."""
    ran = Ran(capsys, "login", "me", "--no-browser", "--to", to, "--config", written(folder))
    assert "auth.example.org" not in ran.complaint
    assert "Traceback" not in ran.complaint
    return ran


async def test_the_token_goes_to_aws_secrets_manager(demo: Demo, config: Path, aws: Any) -> None:
    """The third step of Provena's recipe: made where there is none, replaced the next time, printed never."""
    for to in ("aws-secretsmanager:provena/token", "aws-secretsmanager:provena/token", "aws-secretsmanager:team#token"):
        ended = await signed_in(demo, config, to)
        token = await refresh_token(config)

        assert ended.exit_status == 0, ended.complaint
        assert token not in ended.output + ended.complaint
        assert f'refresh_token = "{to}"' in ended.words
        held = aws.get_secret_value(SecretId=to.partition(":")[2].partition("#")[0])["SecretString"]
        assert held == (json.dumps({"token": token}) if "#" in to else token)


async def test_the_token_goes_to_vault(demo: Demo, config: Path, kv: Vault) -> None:
    kv.versions("secret/data/provena").append({"other": "kept"})
    ended = await signed_in(demo, config, "vault:secret/provena#token")
    token = await refresh_token(config)

    assert ended.exit_status == 0, ended.complaint
    assert token not in ended.output + ended.complaint
    assert kv.versions("secret/data/provena")[-1] == {"other": "kept", "token": token}


async def test_a_server_starts_from_what_was_handed_over(demo: Demo, config: Path, kv: Vault) -> None:
    """Another machine, another store: the reference is all that it is given, and it is read when it starts."""
    await signed_in(demo, config, "vault:secret/provena#token")
    server = config.with_name("server.toml")
    there = CONFIG.format(issuer=demo.issuer_url, store=config.parent / "elsewhere")
    seed = 'grant = "refresh_token"\nrefresh_token = "vault:secret/provena#token"\n'
    server.write_text(there.replace('client_id = "client-tools"\n', f'client_id = "client-tools"\n{seed}'))
    ended = await command.bearerproxy("token", "--config", server)

    assert ended.exit_status == 0, ended.complaint
    assert len(ended.output.split(".")) == 3


async def test_the_token_goes_to_a_file_of_ones_own(demo: Demo, config: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    file.chmod(0o644)
    ended = await signed_in(demo, config, f"file:{file}")

    assert ended.exit_status == 0, ended.complaint
    assert file.read_text() == await refresh_token(config) + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await refresh_token(config) not in ended.output + ended.complaint


async def test_the_token_is_printed_where_that_is_wanted(demo: Demo, config: Path) -> None:
    ended = await signed_in(demo, config, "-")

    assert ended.output == await refresh_token(config) + "\n"
    assert ended.output.strip() not in ended.complaint


@pytest.mark.parametrize(
    ("to", "status", "sentence"),
    [
        ("somewhere", 2, "--to takes file:PATH, aws-secretsmanager:NAME[#KEY], vault:PATH#KEY, or -."),
        ("env:NAME", 2, "--to takes"),
        ("vault:secret/provena", 2, "wants a path below a mount and a key"),
        ("aws-secretsmanager:a b", 2, "wants a name or an ARN"),
        ("vault:old/provena#token", 1, "not in a key-value engine of version 2"),
        ("vault:nowhere/provena#token", 1, "Vault refuses nowhere/provena with status 403"),
        ("file:/no/such/folder/token", 1, "/no/such/folder/token cannot be written: name a file in a folder"),
        ("file:/", 1, "cannot be written"),
    ],
)
def test_where_nothing_can_be_written_nobody_is_asked_to_sign_in(
    kv: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, status: int, sentence: str
) -> None:
    ran = refused(capsys, tmp_path, to)

    assert ran.status == status
    assert sentence in " ".join(ran.complaint.replace("│", " ").split())


def test_services_that_are_away_are_found_out_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    for name in ("VAULT_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    for name in ("VAULT_ADDR", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, gone)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    vaults = refused(capsys, tmp_path, "vault:secret/provena#token")
    amazons = refused(capsys, tmp_path, "aws-secretsmanager:provena")

    assert (vaults.status, amazons.status) == (1, 1)
    assert "cannot be reached" in " ".join(vaults.complaint.split())
    assert "AWS Secrets Manager cannot be asked" in " ".join(amazons.complaint.split())


async def test_a_write_that_fails_leaves_the_sign_in(demo: Demo, config: Path, kv: Vault) -> None:
    """Vault changes its mind between the look and the write: said, status 1, and nothing of the sign-in is lost."""
    versions = kv.versions("secret/data/provena")
    kv.between = lambda: versions.append({"theirs": "kept"})
    ended = await signed_in(demo, config, "vault:secret/provena#token")

    assert ended.exit_status == 1
    assert "check-and-set" in ended.words
    assert "The sign-in itself is made, and kept on this machine." in ended.words
    assert versions == [{"theirs": "kept"}]
    assert await refresh_token(config) not in ended.complaint
