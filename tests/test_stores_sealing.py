"""`[store] key`: what is on the disk shows nothing, and a wrong key destroys nothing."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import load
from proxy.errors import ConfigError, StoreError
from proxy.secret_refs import Secret
from proxy.stores import FileStore, MemoryStore, TokenStore, open_store
from proxy.stores import keyring as keyring_module
from proxy.stores.keyring import keyring_store
from proxy.stores.sealing import KeySealed
from tests.test_stores_common import TOKENS, DictKeyring

RAW = base64.b64encode(bytes(range(32))).decode()
KEYS = {"raw": RAW, "passphrase": "correct horse battery staple"}


def opened(folder: Path, key: str, kind: str = "file") -> TokenStore:
    return open_store(kind, folder, key=Secret.parse(key, literal=True))


def content(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.iterdir())


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_s18_the_file_shows_nothing(tmp_path: Path, key: str) -> None:
    """What is on the disk names the identity and no token, user, client or key; another process opens it."""
    await opened(tmp_path, key).save("provena", TOKENS)

    seen = content(tmp_path)
    assert b"provena" in seen
    assert not [one for one in (b"canary", b"client-tools", b"auth.example.org", key.encode()) if one in seen]
    assert await opened(tmp_path, key).load("provena") == TOKENS


async def test_s18_a_key_of_32_bytes_is_used_as_it_is(tmp_path: Path) -> None:
    await opened(tmp_path, RAW).save("provena", TOKENS)
    entry = json.loads((tmp_path / "tokens.json").read_text())["sets"]["provena"]

    assert set(entry) == {"sealed", "key"}
    assert entry["key"] == "raw"


async def test_s18_a_passphrase_is_salted_at_random(tmp_path: Path) -> None:
    """Two files of one passphrase have two keys; within a file one salt is enough."""
    salts = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        await opened(folder, KEYS["passphrase"]).save("provena", TOKENS)
        again = opened(folder, KEYS["passphrase"])
        await again.load("provena")
        await again.save("dotstat", TOKENS)
        sets = json.loads((folder / "tokens.json").read_text())["sets"]
        salts.append({entry["salt"] for entry in sets.values()})

    assert [len(one) for one in salts] == [1, 1]
    assert salts[0] != salts[1]


@pytest.mark.parametrize("right", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("wrong", ["another passphrase", base64.b64encode(bytes(32)).decode()], ids=["text", "raw"])
async def test_s18_a_wrong_key_is_one_sentence_and_destroys_nothing(tmp_path: Path, right: str, wrong: str) -> None:
    await opened(tmp_path, right).save("provena", TOKENS)
    before = content(tmp_path)

    with pytest.raises(StoreError, match="is not the key that the sign-in of 'provena' was encrypted with") as caught:
        opened(tmp_path, wrong)
    assert "\n" not in str(caught.value)
    assert wrong not in str(caught.value)
    assert content(tmp_path) == before
    assert await opened(tmp_path, right).load("provena") == TOKENS


async def test_s18_what_another_key_sealed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Two processes with two keys on one folder: the second to write keeps its hands off, and says why."""
    ours, theirs = opened(tmp_path, "ours"), opened(tmp_path, "theirs")
    await theirs.save("provena", TOKENS)

    with pytest.raises(StoreError, match="not the key"):
        await ours.load("provena")
    with pytest.raises(StoreError, match="nothing was changed"):
        await ours.save("provena", replace(TOKENS, epoch=2))
    assert await theirs.load("provena") == TOKENS
    (tmp_path / "tokens.json").rename(tmp_path / "away.json")
    assert await opened(tmp_path, "ours").save("provena", TOKENS)


async def test_s18_entries_cannot_be_swapped(tmp_path: Path) -> None:
    await opened(tmp_path, RAW).save("provena", TOKENS)
    file = tmp_path / "tokens.json"
    file.write_text(file.read_text().replace('"provena"', '"dotstat"'))

    with pytest.raises(StoreError, match="'dotstat'"):
        opened(tmp_path, RAW)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry | {"sealed": entry["sealed"][:-4]},
        lambda entry: entry | {"sealed": 7},
        lambda entry: entry | {"sealed": "?"},
        lambda entry: entry | {"salt": "AAAA"},
        lambda entry: entry | {"salt": 7},
        lambda entry: entry | {"key": "raw"},
        lambda entry: entry | {"key": None},
    ],
)
async def test_t15_a_damaged_entry_is_one_sentence(
    tmp_path: Path, damage: Callable[[dict[str, object]], object]
) -> None:
    await opened(tmp_path, KEYS["passphrase"]).save("provena", TOKENS)
    file = tmp_path / "tokens.json"
    document = json.loads(file.read_text())
    document["sets"]["provena"] = damage(document["sets"]["provena"])
    file.write_text(json.dumps(document))

    with pytest.raises(StoreError, match="'provena'"):
        opened(tmp_path, KEYS["passphrase"])


async def test_s18_sets_without_a_key_are_taken_over(tmp_path: Path) -> None:
    await FileStore(tmp_path).save("provena", TOKENS)
    await FileStore(tmp_path).save("dotstat", TOKENS)
    store = opened(tmp_path, RAW)

    assert await store.load("provena") == TOKENS
    await store.save("provena", TOKENS)
    assert b"canary" not in content(tmp_path)
    assert await store.load("dotstat") == TOKENS


async def test_s18_another_protection_says_which_one_it_was(tmp_path: Path) -> None:
    """Key, keyring and none: each names what the entry was sealed with, and the way back."""
    keyed, ringed = tmp_path / "keyed", tmp_path / "ringed"
    await opened(keyed, RAW).save("provena", TOKENS)
    await keyring_store(ringed, backend=DictKeyring()).save("provena", TOKENS)

    with pytest.raises(StoreError, match="set \\[store\\] key as it was"):
        await FileStore(keyed).load("provena")
    with pytest.raises(StoreError, match="encrypted with \\[store\\] key, and kind is"):
        await keyring_store(keyed, backend=DictKeyring()).load("provena")
    with pytest.raises(StoreError, match='set kind to "keyring"'):
        await opened(ringed, RAW).load("provena")


async def test_s18_with_a_key_auto_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_module, "real_backend", DictKeyring)

    assert opened(tmp_path, RAW, "auto").kind == "file"
    assert isinstance(opened(tmp_path, RAW, "memory"), MemoryStore)


def test_s18_a_key_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="\\[store\\] key cannot be read: the variable NO_SUCH is not set"):
        open_store("file", tmp_path, key=Secret.parse("env:NO_SUCH", environ={}))


def test_s18_a_wrong_key_is_found_before_other_trouble_is(tmp_path: Path) -> None:
    """What the store says of a broken or open file is said when it is loaded, not here."""
    (tmp_path / "tokens.json").write_text("{")
    (tmp_path / "tokens.json").chmod(0o644)

    assert opened(tmp_path, RAW).kind == "file"


def test_s18_one_derivation_for_each_salt() -> None:
    """A third of a second and 32 MiB, so not for each set; any cipher serves any store."""
    cipher = KeySealed("passphrase")
    entries = [cipher.seal(f"name{index}", {"access_token": str(index)}) for index in range(3)]

    assert [KeySealed("passphrase").open(f"name{index}", one)["access_token"] for index, one in enumerate(entries)] == [
        "0", "1", "2",
    ]  # fmt: skip
    assert len({one["salt"] for one in entries}) == 1
    assert len({one["sealed"] for one in entries}) == 3


def test_key_of_the_configuration(tmp_path: Path) -> None:
    """It is shown as a reference, refused where it would do nothing, and warned about where it stands in the file."""
    file = tmp_path / "proxy.toml"
    start = '[identity.me]\nissuer = "https://a.example.org"\nclient_id = "x"\n[store]\n'
    file.write_text(start + 'key = "env:KEY"')
    configuration = load(file, {"KEY": RAW})
    file.write_text(start + f'key = "{RAW}"')
    literal = load(file, {})
    file.write_text(start + 'key = "env:KEY"\nkind = "memory"')

    assert configuration.store.key == Secret.parse("env:KEY")
    assert 'key = "env:KEY"' in configuration.show()
    assert RAW not in literal.show()
    assert "[store] key: holds the secret itself" in str(literal.warnings)
    with pytest.raises(ConfigError, match="\\[store\\] key: is of no use"):
        load(file, {"KEY": RAW})
    with pytest.raises(ConfigError, match="the variable KEY is not set"):
        load(file, {})
