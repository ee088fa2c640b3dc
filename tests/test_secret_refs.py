"""Secret references: read when asked, shown never, and each failure one sentence."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from proxy.errors import SecretError
from proxy.secret_refs import COMMAND_TIMEOUT_SECONDS, Secret, system_keyring

CANARY = "canary-4c1d"


class _Memory(KeyringBackend):
    """A keyring that says that it comes with the keyring package."""

    __module__ = "keyring.backends.memory"
    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return CANARY if (service, username) == ("bearerproxy/team", "dotstat") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


class _Stranger(_Memory):
    """One of those that keep plain text or ask on the terminal."""

    __module__ = "keyrings.alt.file"


@pytest.fixture
def use_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    yield
    keyring.set_keyring(before)


def refusal(text: str, **how: object) -> str:
    with pytest.raises(SecretError) as caught:
        Secret.parse(text, **how).reveal()  # type: ignore[arg-type] # passed on as given
    return str(caught.value)


def python(code: str) -> str:
    return f'command:{Path(sys.executable).as_posix()} -c "{code}"'


def test_a_literal_is_itself() -> None:
    secret = Secret.parse(CANARY)

    assert (secret.reveal(), secret.is_literal, secret.reference) == (CANARY, True, "(literal)")


def test_a_text_with_a_colon_of_another_kind_is_a_literal() -> None:
    assert Secret.parse("user:env:NAME").reveal() == "user:env:NAME"


def test_a_literal_is_never_read_as_a_reference_where_its_place_says_so() -> None:
    assert Secret.parse("env:PATH", literal=True).reveal() == "env:PATH"


def test_an_environment_reference_is_read_anew_each_time() -> None:
    environ = {"A": "old"}
    secret = Secret.parse("env:A", environ=environ)
    environ["A"] = "new"

    assert secret.reveal() == "new"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_A_TEST", CANARY)

    assert Secret.parse("env:SECRET_OF_A_TEST").reveal() == CANARY


@pytest.mark.parametrize(
    ("content", "revealed"),
    [(b"s\n", "s"), (b"s\r\n", "s"), (b"s\n\n", "s\n"), (b" s ", " s "), ("gr\u00fcn".encode(), "gr\u00fcn")],
)
def test_a_file_loses_one_trailing_newline_and_nothing_else(tmp_path: Path, content: bytes, revealed: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)

    assert Secret.parse(f"file:{file}").reveal() == revealed


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secret = Secret.parse(f"file:{file}")
    file.write_text("one")
    first = secret.reveal()
    file.write_text("two")

    assert (first, secret.reveal()) == ("one", "two")


def test_a_file_may_be_named_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(CANARY)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))

    assert Secret.parse("file:~/secret").reveal() == CANARY


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("env:NOT_SET_ANYWHERE", "the variable NOT_SET_ANYWHERE is not set; set it, or name another place"),
        ("env:", "wants the name of a variable"),
        ("env:A B", "wants the name of a variable"),
        ("file:relative/secret", "wants an absolute path"),
        ("file:/no/such/file", "there is no file /no/such/file"),
        ("file:/", "cannot be read"),
        ("file:/a\x00b", "cannot be read"),
        ("keyring:noslash", "wants service/name"),
        ("keyring:/name", "wants service/name"),
        ("command:", "wants a program"),
        ('command:"unbalanced', "cannot be split into arguments: no closing quotation"),
        ("command:no-such-program-anywhere", "the command no-such-program-anywhere cannot be run"),
        ("vault:secret/x", "wants a path below a mount and a key"),
        ("vault:secret/x#k", "wants the variable VAULT_ADDR"),
        ("aws-secretsmanager:", "wants a name or an ARN"),
    ],
)
def test_what_cannot_be_read_says_why_in_one_sentence(text: str, sentence: str) -> None:
    said = refusal(text, environ={})

    assert sentence in said
    assert "\n" not in said


def test_an_empty_variable_is_no_secret() -> None:
    assert refusal("env:A", environ={"A": ""}) == "env:A is empty"


def test_a_file_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 70_000)
    too_long = refusal(f"file:{file}")
    file.write_bytes(b"\xff\xfe")

    assert "more than 64 KiB" in too_long
    assert "UTF-8" in refusal(f"file:{file}")


if sys.platform != "win32":  # where files have no modes

    def test_a_file_of_somebody_else_is_said_to_be_so(tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(CANARY)
        file.chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read every file
        try:
            said = refusal(f"file:{file}")
        finally:
            os.seteuid(user)

        assert "may not be read by this user" in said


def test_a_command_yields_what_it_prints() -> None:
    assert Secret.parse(python(f"print('{CANARY}')")).reveal() == CANARY


def test_a_command_is_no_shell(tmp_path: Path) -> None:
    printed = Secret.parse(f"command:echo one;touch {tmp_path / 'made'}").reveal()

    assert printed == f"one;touch {tmp_path / 'made'}"
    assert not (tmp_path / "made").exists()


def test_a_command_does_not_see_other_secrets_of_the_environment() -> None:
    environ = dict(os.environ) | {"DOTSTAT_CLIENT_SECRET": CANARY, "BEARERPROXY_SERVER__API_KEY": CANARY}  # noqa: TID251
    seen = Secret.parse(python("import os; print(dict(os.environ))"), environ=environ).reveal()

    assert CANARY not in seen
    assert "PATH" in seen


def test_a_command_that_fails_is_named_without_its_output() -> None:
    said = refusal(python(f"import sys; print('{CANARY}'); sys.exit(3)"))

    assert "failed with exit status 3; run it by hand to see why" in said
    assert CANARY not in said


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.secret_refs.COMMAND_TIMEOUT_SECONDS", 0.2)

    assert COMMAND_TIMEOUT_SECONDS == 30.0
    assert "did not end within" in refusal(python("import time; time.sleep(60)"))


def test_a_check_does_not_run_a_command(tmp_path: Path) -> None:
    made = tmp_path / "made"
    Secret.parse(f"command:touch {made}").check()

    assert not made.exists()


def test_a_check_finds_a_missing_secret() -> None:
    with pytest.raises(SecretError, match="is not set"):
        Secret.parse("env:A", environ={}).check()


@pytest.mark.usefixtures("use_keyring")
def test_a_keyring_entry_is_found_by_service_and_name() -> None:
    keyring.set_keyring(_Memory())  # type: ignore[no-untyped-call] # keyring's own constructor

    assert Secret.parse("keyring:bearerproxy/team/dotstat").reveal() == CANARY
    assert "store one with: keyring set bearerproxy other" in refusal("keyring:bearerproxy/other")


@pytest.mark.usefixtures("use_keyring")
def test_a_keyring_that_keeps_plain_text_is_not_asked() -> None:
    keyring.set_keyring(_Stranger())  # type: ignore[no-untyped-call] # the same

    assert system_keyring() is None
    assert "no working keyring" in refusal("keyring:bearerproxy/team/dotstat")


@pytest.mark.parametrize("shown", [repr, str, "{}".format])
@pytest.mark.parametrize("literal", [True, False])
def test_a_secret_is_not_shown(shown: object, literal: bool) -> None:
    secret = Secret.parse(CANARY if literal else "env:A", environ={"A": CANARY})

    assert callable(shown)
    assert CANARY not in shown(secret)


def test_secrets_are_equal_by_place_or_literal() -> None:
    same = [Secret.parse("env:A"), Secret.parse("env:A", environ={})]
    others = [Secret.parse("env:B"), Secret.parse("env:A", literal=True), Secret.parse("x")]

    assert len({*same, *others}) == 4
    assert same[0] == same[1]
    assert same[0] != "env:A"
