"""AWS Secrets Manager (tests/aws.py) and Vault's KV engine (tests/vault.py)."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import SecretError
from proxy.secret_refs import Secret
from proxy.secret_services import aws_secretsmanager
from proxy.secret_services import vault as vault_module
from tests.conftest import free_port
from tests.vault import TOKEN, Vault, vault

CANARY = "canary-of-the-service"


@pytest.fixture
def kv() -> Iterator[Vault]:
    with vault() as there:
        yield there


def at(kv: Vault, text: str = "vault:secret/provena#token", **environ: str) -> Secret:
    return Secret.parse(text, environ={"VAULT_ADDR": kv.address, "VAULT_TOKEN": TOKEN, **environ})


def write(secret: Secret, value: str) -> None:
    assert secret.service is not None
    secret.service.write(value)


def refusal(secret: Secret) -> str:
    with pytest.raises(SecretError) as caught:
        secret.reveal()
    said = str(caught.value)
    assert "\n" not in said
    assert "canary" not in said
    return said


def test_an_aws_secret_is_read_anew_each_time(aws: Any) -> None:
    secret = Secret.parse("aws-secretsmanager:provena/api-token")
    aws.create_secret(Name="provena/api-token", SecretString="one")
    first = secret.reveal()
    aws.put_secret_value(SecretId="provena/api-token", SecretString="two")

    assert (first, secret.reveal()) == ("one", "two")


def test_a_key_of_an_aws_secret(aws: Any) -> None:
    aws.create_secret(Name="team", SecretString=json.dumps({"token": CANARY, "number": 7}))

    assert Secret.parse("aws-secretsmanager:team#token").reveal() == CANARY
    assert "no key other; it has: number, token" in refusal(Secret.parse("aws-secretsmanager:team#other"))
    assert "is not text" in refusal(Secret.parse("aws-secretsmanager:team#number"))


def test_an_arn_names_its_region(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = aws.create_secret(Name="provena", SecretString=CANARY)["ARN"]
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    assert Secret.parse(f"aws-secretsmanager:{arn}").reveal() == CANARY
    assert "has no secret provena in this region" in refusal(Secret.parse("aws-secretsmanager:provena"))


def test_what_aws_says_is_one_sentence(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.create_secret(Name="binary", SecretBinary=b"\x00")
    aws.create_secret(Name="plain", SecretString=CANARY)
    aws.create_secret(Name="gone", SecretString=CANARY)
    aws.delete_secret(SecretId="gone")

    assert "is binary, not text" in refusal(Secret.parse("aws-secretsmanager:binary"))
    assert "is no JSON object" in refusal(Secret.parse("aws-secretsmanager:plain#key"))
    assert "InvalidRequestException" in refusal(Secret.parse("aws-secretsmanager:gone"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "region" in refusal(Secret.parse("aws-secretsmanager:plain"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-southeast-2")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "credentials" in refusal(Secret.parse("aws-secretsmanager:plain"))


def test_aws_that_does_not_answer_is_not_waited_for(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_secretsmanager, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert "cannot be asked" in refusal(Secret.parse("aws-secretsmanager:plain"))


def test_outbound_proxies_of_the_environment_are_not_asked(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.create_secret(Name="plain", SecretString=CANARY)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    assert Secret.parse("aws-secretsmanager:plain").reveal() == CANARY


def test_aws_is_written(aws: Any) -> None:
    """Made where there is none, a new version where there is one."""
    secret = Secret.parse("aws-secretsmanager:provena/api-token")
    write(secret, "one")
    write(secret, "two")

    assert aws.get_secret_value(SecretId="provena/api-token")["SecretString"] == "two"
    assert secret.reveal() == "two"


def test_the_other_keys_of_an_aws_secret_stay(aws: Any) -> None:
    aws.create_secret(Name="team", SecretString='{"other": "kept"}')
    write(Secret.parse("aws-secretsmanager:team#token"), CANARY)
    write(Secret.parse("aws-secretsmanager:new#token"), CANARY)

    assert json.loads(aws.get_secret_value(SecretId="team")["SecretString"]) == {"other": "kept", "token": CANARY}
    assert json.loads(aws.get_secret_value(SecretId="new")["SecretString"]) == {"token": CANARY}


def test_an_aws_secret_with_keys_is_not_overwritten_whole(aws: Any) -> None:
    aws.create_secret(Name="team", SecretString='{"other": "kept"}')
    service = Secret.parse("aws-secretsmanager:team").service

    assert service is not None
    with pytest.raises(SecretError, match="holds several values; name a key"):
        service.prepare()
    with pytest.raises(SecretError, match="holds several values"):
        service.write(CANARY)


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    secret = Secret.parse("aws-secretsmanager:provena")

    with pytest.raises(SecretError, match="pip install 'bearerproxy\\[aws\\]'"):
        secret.check()
    assert "bearerproxy[aws]" in refusal(secret)


def test_a_check_calls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is away for a minute does not keep the proxy from starting."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    Secret.parse("aws-secretsmanager:provena#key").check()
    Secret.parse("vault:secret/provena#key", environ={"VAULT_ADDR": f"http://127.0.0.1:{free_port()}"}).check()

    with pytest.raises(SecretError, match="VAULT_ADDR"):
        Secret.parse("vault:secret/provena#key", environ={}).check()


@pytest.mark.parametrize(
    "text",
    ["", "#key", "a b", "name#", "name;", "arn:aws:s3:::bucket"],
)
def test_what_is_no_name_of_aws(text: str) -> None:
    with pytest.raises(SecretError, match="aws-secretsmanager:"):
        Secret.parse(f"aws-secretsmanager:{text}")


@pytest.mark.parametrize(
    "text", ["", "secret", "secret#key", "secret/x", "secret/x#", "secret//x#key", "secret/../x#k"]
)
def test_what_is_no_path_of_vault(text: str) -> None:
    with pytest.raises(SecretError, match="wants a path below a mount and a key"):
        Secret.parse(f"vault:{text}")


def test_a_vault_secret_is_read_anew_each_time(kv: Vault) -> None:
    kv.versions("secret/data/provena").append({"token": "one", "other": "x"})
    secret = at(kv)
    first = secret.reveal()
    kv.versions("secret/data/provena").append({"token": "two"})

    assert (first, secret.reveal()) == ("one", "two")
    assert kv.requests[:2] == [("GET", "/v1/sys/internal/ui/mounts/secret/provena"), ("GET", "/v1/secret/data/provena")]
    assert {one["x-vault-request"] for one in kv.fields} == {"true"}


def test_a_mount_may_have_several_segments(kv: Vault) -> None:
    kv.versions("team/kv/data/a%20b/provena").append({"token": CANARY})

    assert at(kv, "vault:team/kv/a b/provena#token").reveal() == CANARY


def test_vault_namespaces(kv: Vault) -> None:
    kv.namespace = "research/reef"
    kv.versions("secret/data/provena").append({"token": CANARY})

    assert at(kv, VAULT_NAMESPACE="research/reef").reveal() == CANARY
    assert refusal(at(kv)) == "Vault refuses secret/provena with status 403: permission denied"


def test_vault_tokens_come_from_a_file_too(kv: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that `vault login` writes; read anew, because agents replace it."""
    kv.versions("secret/data/provena").append({"token": CANARY})
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = refusal(at(kv, VAULT_TOKEN=""))
    (tmp_path / ".vault-token").write_text(f"{TOKEN}\n")
    (tmp_path / "agents").write_text("two words")

    assert "wants a token: VAULT_TOKEN, or the file ~/.vault-token" in missing
    assert at(kv, VAULT_TOKEN="").reveal() == CANARY
    assert "holds no token" in refusal(at(kv, VAULT_TOKEN="", VAULT_TOKEN_FILE=str(tmp_path / "agents")))


def test_what_vault_lacks_is_one_sentence(kv: Vault) -> None:
    kv.versions("secret/data/deleted").extend([{"token": CANARY}, None])
    kv.versions("secret/data/provena").append({"number": 7, "other": CANARY})

    assert "has no secret at secret/none" in refusal(at(kv, "vault:secret/none#token"))
    assert "has no secret at secret/deleted" in refusal(at(kv, "vault:secret/deleted#token"))
    assert "has no key token; it has: number, other" in refusal(at(kv))
    assert "is not text" in refusal(at(kv, "vault:secret/provena#number"))
    assert "not in a key-value engine of version 2" in refusal(at(kv, "vault:old/x#token"))
    assert "not in a key-value engine of version 2" in refusal(at(kv, "vault:transit/x#token"))
    assert "status 403: preflight capability check" in refusal(at(kv, "vault:nowhere/x#token"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((307, {"Location": "http://active.invalid/v1/x"}, b""), "let VAULT_ADDR name the active node"),
        ((503, {}, b'{"errors":["Vault is sealed"]}'), "with status 503: Vault is sealed"),
        ((200, {"Content-Type": "text/html"}, b"<html>canary</html>"), "is not Vault (status 200, no JSON)"),
        ((200, {}, b'"' + b"x" * 2_000_000 + b'"'), "too long or too slow"),
        ((500, {}, b'{"errors":["a\\nb\\u0007"]}'), "with status 500: a b"),
        ((200, {}, b"{}"), "not in a key-value engine of version 2"),
    ],
)
def test_odd_answers_of_vault(kv: Vault, answer: tuple[int, dict[str, str], bytes], sentence: str) -> None:
    kv.answer = answer

    assert sentence in refusal(at(kv))
    assert len(kv.requests) == 1


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://vault.example.org:8200", "in the clear"),
        ("vault.example.org", "is no address"),
        ("https://user@vault.example.org", "is no address"),
        ("https://vault.example.org:x", "is no address"),
        ("http://127.0.0.1.evil.example", "in the clear"),
    ],
)
def test_addresses_of_vault_that_are_refused(address: str, sentence: str) -> None:
    secret = Secret.parse("vault:secret/x#k", environ={"VAULT_ADDR": address, "VAULT_TOKEN": TOKEN})

    assert sentence in refusal(secret)
    with pytest.raises(SecretError):
        secret.check()


def test_vault_that_is_away(kv: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vault_module, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert "cannot be reached" in refusal(at(kv, VAULT_ADDR=f"http://127.0.0.1:{deaf.getsockname()[1]}"))
    assert "cannot be reached" in refusal(at(kv, VAULT_ADDR=f"http://127.0.0.1:{free_port()}"))
    assert "VAULT_CACERT" in refusal(at(kv, VAULT_CACERT=str(tmp_path / "none")))


def test_vault_is_written_beside_what_is_there(kv: Vault) -> None:
    kv.versions("secret/data/provena").append({"other": "kept"})
    write(at(kv), "one")
    write(at(kv), "two")
    write(at(kv, "vault:secret/new#token"), CANARY)

    assert kv.versions("secret/data/provena")[-1] == {"other": "kept", "token": "two"}
    assert kv.versions("secret/data/new") == [{"token": CANARY}]
    assert at(kv).reveal() == "two"


def test_a_deleted_secret_of_vault_is_written_anew(kv: Vault) -> None:
    """Check-and-set counts deleted versions too."""
    kv.versions("secret/data/provena").extend([{"old": "x"}, None])
    write(at(kv), CANARY)

    assert kv.versions("secret/data/provena")[-1] == {"token": CANARY}


def test_what_somebody_else_writes_to_vault_is_not_lost(kv: Vault) -> None:
    versions = kv.versions("secret/data/provena")
    kv.between = lambda: versions.append({"theirs": "kept"})

    with pytest.raises(SecretError, match="check-and-set parameter did not match"):
        write(at(kv), CANARY)
    assert versions == [{"theirs": "kept"}]
