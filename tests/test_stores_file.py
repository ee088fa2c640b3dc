# ruff: noqa: ASYNC240 - looking at small local files between steps harms no event loop

import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxy.errors import StoreError
from proxy.events import Event, StoreTrouble
from proxy.stores import FileStore, MemoryStore, open_store
from proxy.stores.keyring import keyring_store
from tests.test_stores_common import TOKENS, DictKeyring

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX; Windows has access lists")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def store(folder: Path, events: list[Event]) -> FileStore:
    return FileStore(folder, emit=events.append)


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@posix
async def test_files_are_closed_to_others(store: FileStore, folder: Path, no_umask: None) -> None:
    """Folder 0700 and every file in it 0600, also where the umask would open them (S17, S18)."""
    async with store.renewal_lock("provena", timeout=1):
        await store.save("provena", TOKENS)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {one.name: oct(stat.S_IMODE(one.stat().st_mode)) for one in folder.iterdir()}
    assert modes == dict.fromkeys(("tokens.json", "tokens.json.lock", "provena.renewal.lock"), "0o600")


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_readable_file_is_refused(store: FileStore, mode: int) -> None:
    """S17."""
    await store.save("provena", TOKENS)
    store.path.chmod(mode)

    with pytest.raises(StoreError, match=f"chmod 600 {store.path}"):
        await store.load("provena")
    with pytest.raises(StoreError, match="chmod 600"):
        await store.save("provena", TOKENS)


@posix
async def test_symbolic_link_is_refused(store: FileStore, tmp_path: Path) -> None:
    """S17."""
    await store.save("provena", TOKENS)
    store.path.rename(tmp_path / "elsewhere.json")
    store.path.symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(StoreError, match="symbolic link"):
        await store.load("provena")


@posix
async def test_foreign_file_is_refused(store: FileStore) -> None:
    """Who can put a file there chooses whose token is presented (S17)."""
    if sys.platform == "win32":
        return  # for the type checker; the mark has skipped it
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away; run the suite as root, as CI does")
    await store.save("provena", TOKENS)
    os.chown(store.path, 12345, -1)

    with pytest.raises(StoreError, match="belongs to another user"):
        await store.load("provena")


@posix
async def test_open_folder_is_refused(store: FileStore, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(StoreError, match=f"chmod 700 {folder}"):
        await store.save("provena", TOKENS)


@pytest.mark.parametrize("text", ['{"version": 1, "sets": {"provena": {"access_tok', "", "[]", '{"version": 1}'])
async def test_broken_file_is_put_aside(store: FileStore, events: list[Event], text: str) -> None:
    """A damaged file is kept for a look, named in one sentence, and the store works on."""
    await store.save("provena", TOKENS)
    store.path.write_text(text)

    assert await store.load("provena") is None
    broken = store.path.with_name("tokens.json.broken-1")
    assert broken.read_text() == text
    assert [type(event) for event in events] == [StoreTrouble]
    assert await store.save("provena", TOKENS)
    assert await store.load("provena") == TOKENS


async def test_second_broken_file_gets_its_own_name(store: FileStore, folder: Path) -> None:
    for _ in range(2):
        await store.save("provena", TOKENS)
        store.path.write_text("{")
        await store.names()

    assert sorted(one.name for one in folder.glob("*broken*")) == ["tokens.json.broken-1", "tokens.json.broken-2"]


async def test_damaged_entry_harms_no_other(store: FileStore, events: list[Event]) -> None:
    await store.save("provena", TOKENS)
    document = json.loads(store.path.read_text())
    document["sets"]["dotstat"] = {"access_token": 7}
    store.path.write_text(json.dumps(document))

    assert await store.load("dotstat") is None
    assert await store.load("provena") == TOKENS
    assert "'dotstat'" in str(events)


async def test_later_version_is_left_alone(store: FileStore) -> None:
    await store.save("provena", TOKENS)
    store.path.write_text('{"version": 2}')

    with pytest.raises(StoreError, match="newer bearerproxy"):
        await store.save("provena", TOKENS)
    assert store.path.read_text() == '{"version": 2}'


async def test_crash_before_the_rename_leaves_the_old_file(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut between temporary file and rename, a write has not happened; the next one sweeps up."""
    await store.save("provena", TOKENS)

    class Killed(BaseException):
        """Nothing after it runs, as with SIGKILL; not an Exception, so that nobody cures it."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            store._save("provena", replace(TOKENS, access_token="newer"))

    folder = store.path.parent
    assert await store.load("provena") == TOKENS
    assert len(list(folder.glob(".tokens-*"))) == 1
    await store.save("provena", TOKENS)
    assert not list(folder.glob(".tokens-*"))


@posix
def test_t11_what_is_written_is_on_the_disk_before_it_takes_its_place_and_so_is_that(store: FileStore) -> None:
    """Without the first fsync a power cut can leave an empty file, without the second the old set, which is spent."""
    synced: list[str] = []

    def seen(_: FrameType, event: str, call: Any) -> None:
        if (
            event == "c_call"
            and call.__name__ in ("fsync", "rename", "replace")
            and call.__self__ is sys.modules["posix"]
        ):
            synced.append("rename" if call.__name__ == "replace" else call.__name__)

    sys.setprofile(seen)
    try:
        assert store._save("provena", TOKENS)
    finally:
        sys.setprofile(None)

    assert synced == ["fsync", "rename", "fsync"]


async def test_full_disk_leaves_the_old_file(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is one sentence for a person; the old file is whole and no temporary file stays."""
    await store.save("provena", TOKENS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            await store.save("provena", replace(TOKENS, access_token="newer"))

    assert await store.load("provena") == TOKENS
    assert not list(store.path.parent.glob(".tokens-*"))


async def test_parallel_writers_lose_nothing(folder: Path) -> None:
    """Each write reads again under the lock, so that two stores on one folder keep each other's sets (S42)."""
    stores = [FileStore(folder) for _ in range(8)]
    await asyncio.gather(*(one.save(f"name{index}", TOKENS) for index, one in enumerate(stores)))

    assert len(await stores[0].names()) == 8


async def test_encrypted_set_is_not_taken_as_plain(folder: Path) -> None:
    await keyring_store(folder, backend=DictKeyring()).save("provena", TOKENS)

    with pytest.raises(StoreError, match='kind to "keyring"'):
        await FileStore(folder).load("provena")


async def test_kinds_open(folder: Path) -> None:
    assert isinstance(open_store("memory", folder), MemoryStore)
    assert open_store("file", folder).kind == "file"
