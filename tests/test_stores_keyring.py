import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.errors import StoreError
from proxy.events import Event, Warned
from proxy.stores import FileStore, open_store
from proxy.stores import keyring as keyring_module
from proxy.stores.keyring import KEY_ENTRY, SERVICE, bounded, keyring_store
from tests.conftest import need_program
from tests.test_stores_common import TOKENS, DictKeyring

ROOT = Path(__file__).parent.parent


async def test_file_shows_nothing(tmp_path: Path) -> None:
    """What is on the disk names the identity and no token, user or client."""
    store = keyring_store(tmp_path, backend=DictKeyring())
    await store.save("provena", TOKENS)

    text = store.path.read_text()
    assert "provena" in text
    assert not [one for one in ("canary", "client-tools", "auth.example.org") if one in text]


async def test_plain_sets_are_taken_over(tmp_path: Path) -> None:
    """Sets of the plain store are read, and sealed with the next write, also those of other identities."""
    await FileStore(tmp_path).save("provena", TOKENS)
    await FileStore(tmp_path).save("dotstat", TOKENS)
    store = keyring_store(tmp_path, backend=DictKeyring())

    assert await store.load("provena") == TOKENS
    await store.save("provena", TOKENS)
    assert "canary" not in store.path.read_text()
    assert await store.load("dotstat") == TOKENS


async def test_entries_cannot_be_swapped(tmp_path: Path) -> None:
    """The name is authenticated: an entry copied to another name does not open there."""
    store = keyring_store(tmp_path, backend=DictKeyring())
    await store.save("provena", TOKENS)
    store.path.write_text(store.path.read_text().replace('"provena"', '"dotstat"'))

    with pytest.raises(StoreError, match="bearerproxy login dotstat"):
        await store.load("dotstat")


async def test_lost_key_says_sign_in(tmp_path: Path) -> None:
    await keyring_store(tmp_path, backend=DictKeyring()).save("provena", TOKENS)
    store = keyring_store(tmp_path, backend=DictKeyring())

    with pytest.raises(StoreError, match="bearerproxy login provena"):
        await store.load("provena")
    await store.save("provena", TOKENS)
    assert await store.load("provena") == TOKENS


async def test_key_made_by_another_process_is_found(tmp_path: Path) -> None:
    """A cached key that no longer opens the entry is fetched again."""
    backend = DictKeyring()
    ours, theirs = keyring_store(tmp_path, backend=backend), keyring_store(tmp_path, backend=backend)
    await ours.save("provena", TOKENS)
    backend.delete_password(SERVICE, KEY_ENTRY)
    await theirs.save("provena", TOKENS)

    assert await ours.load("provena") == TOKENS


async def test_foreign_entry_in_the_keyring(tmp_path: Path) -> None:
    backend = DictKeyring()
    backend.set_password(SERVICE, KEY_ENTRY, "short")

    with pytest.raises(StoreError, match="not a key of ours"):
        await keyring_store(tmp_path, backend=backend).save("provena", TOKENS)


def test_keyring_that_waits_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked keyring shows a dialogue and does not return; a server goes on."""
    monkeypatch.setattr(keyring_module, "KEYRING_SECONDS", 0.05)

    with pytest.raises(StoreError, match="locked"):
        bounded(lambda: time.sleep(0.5))


def test_keyring_that_keeps_nothing(tmp_path: Path) -> None:
    class Forgetful(DictKeyring):
        def get_password(self, service: str, username: str) -> str | None:
            return None

    with pytest.raises(StoreError, match="does not keep"):
        keyring_store(tmp_path, backend=Forgetful())


def test_auto_falls_back_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyring that exists and does not work is said; one that does not exist is not worth a word."""
    events: list[Event] = []

    def broken() -> None:
        raise RuntimeError("no bus")

    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.setattr(keyring_module, "real_backend", broken)
    assert open_store("auto", tmp_path, emit=events.append).kind == "file"
    assert [type(event) for event in events] == [Warned]

    monkeypatch.setattr(keyring_module, "real_backend", lambda: None)
    assert open_store("auto", tmp_path, emit=events.append).kind == "file"
    assert len(events) == 1
    with pytest.raises(StoreError, match='kind to "file"'):
        open_store("keyring", tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the keyring is asked without a session's bus")
@pytest.mark.parametrize(
    ("variable", "is_looked_for"),
    [("", False), ("DBUS_SESSION_BUS_ADDRESS", True), ("DISPLAY", True), ("XDG_RUNTIME_DIR", True)],
)
def test_auto_looks_for_a_keyring_only_where_a_session_has_a_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, is_looked_for: bool
) -> None:
    for one in ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(one, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
        (tmp_path / "bus").touch()
    monkeypatch.setattr(keyring_module, "real_backend", DictKeyring)

    assert open_store("auto", tmp_path).kind == ("keyring" if is_looked_for else "file")


@pytest.mark.keyring
def test_real_keyring() -> None:
    """The tests of keyring_session.py, run in a session that has a real Secret Service."""
    need_program("dbus-run-session", how="apt-get install dbus")
    need_program("gnome-keyring-daemon", how="apt-get install gnome-keyring")
    command = ["dbus-run-session", "--", "bash", "tests/with-keyring.sh", sys.executable, "-m", "pytest", "-q"]
    inside = subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests/keyring_session.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert "2 passed" in inside.stdout
