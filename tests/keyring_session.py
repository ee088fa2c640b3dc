"""Tests for a session that has a real Secret Service: test_stores_keyring.py starts them, nothing collects them."""

import asyncio
from pathlib import Path

import keyring

from proxy.stores import open_store
from proxy.stores.keyring import KEY_ENTRY, SERVICE
from tests.test_stores_common import TOKENS


async def test_auto_takes_the_keyring(tmp_path: Path) -> None:
    """Where a keyring works it is used without being asked for, and another process finds the key."""
    store = open_store("auto", tmp_path)

    assert store.kind == "keyring"
    await store.save("provena", TOKENS)
    assert await open_store("keyring", tmp_path).load("provena") == TOKENS


async def test_tokens_are_in_neither_place_in_plain(tmp_path: Path) -> None:
    """The file holds what the key opens, the keyring holds the key alone."""
    await open_store("keyring", tmp_path).save("provena", TOKENS)
    key = keyring.get_password(SERVICE, KEY_ENTRY)

    assert key is not None
    assert len(key) == 44
    assert "canary" not in await asyncio.to_thread((tmp_path / "tokens.json").read_text)
