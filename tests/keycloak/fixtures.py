"""Fixtures of the real issuer and of a person at a real browser, for any test (tests/conftest.py loads them).

@pytest.mark.keycloak
async def test_reads_through_the_proxy(realm: Realm, person: Person) -> None: ...
"""

from collections.abc import Iterator

import pytest

from tests.browser import Browser
from tests.conftest import need, need_program
from tests.keycloak.person import Person
from tests.keycloak.server import Keycloak, MissingPartError, Realm


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """One server for the whole run, up in about ten seconds when the machine has prepared it before."""
    try:
        server = Keycloak(tmp_path_factory.mktemp("keycloak"))
    except MissingPartError as missing:
        need(missing.what, how=missing.how)
    with server:
        yield server


@pytest.fixture(scope="module")
def realm(keycloak: Keycloak) -> Realm:
    """The realm of tests/keycloak/realm.json, fresh for the module: 8 s tokens, rotation with reuse detection."""
    return keycloak.fresh_realm()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the whole run; each visit is a private window."""
    with Browser(need_program("chromium", how="apt-get install chromium")) as chromium:
        yield chromium


@pytest.fixture
def person(browser: Browser) -> Person:
    """Alice, who signs in where a link leads her."""
    return Person(browser)
