"""What every test may ask for: parts of the machine, free ports, a browser, an issuer (tests/keycloak/fixtures.py).

A part that a laptop lacks skips its tests with a sentence that says how to get it. With CI=true it fails them: a green
run of CI has used every part.
"""

import asyncio
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.poll import eventually

pytest_plugins = ["tests.aws", "tests.ends", "tests.keycloak.fixtures", "tests.listener", "tests.redis_server"]

QUIETED = ("httpx2", "httpcore2", "keyring", "filelock", "uvicorn.access", "uvicorn.error")
"""Loggers that proxy.logs and proxy.server turn down."""

IS_CI = os.environ.get("CI") == "true"  # noqa: TID251 - said by the machine, not by a configuration

FOREIGN = ("BEARERPROXY_", "PROVENA_", "RRAP_", "XDG_CONFIG", "XDG_STATE", "XDG_DATA")
"""Variables of the person who runs the tests, by which their own sign-ins and settings would get into them."""


def need(what: str, *, how: str) -> NoReturn:
    """End the test because `what` is missing; `how` completes "to get it: ...". Fails in CI, skips elsewhere."""
    sentence = f"{what} is missing; to get it: {how}"
    if IS_CI:
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def need_program(name: str, *, how: str) -> str:
    """Return the path of the program `name`, or end the test as `need` does."""
    path = shutil.which(name)
    if path is None:
        need(f"the program {name}", how=how)
    return path


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago; prefer port 0 where the listener can say what it got."""
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long cases in full (minutes), not shortened")


SLOW = ("client", "keyring", "chromium", "container", "keycloak", "long")
"""Markers of the tests that take their time, in ascending order."""

TOGETHER = ("tests/keycloak/", "tests/container/")
"""Folders whose files share a part of which a machine wants no second one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quick tests first: a mistake shows in seconds, while a container or an issuer takes its time.

    Spread over processes (`-n 3`) the slow ones begin first, lest one process goes on alone at the end.
    """
    is_spread = "PYTEST_XDIST_WORKER" in os.environ  # noqa: TID251 - said by the runner
    items.sort(
        key=lambda item: max((SLOW.index(m.name) + 1 for m in item.iter_markers() if m.name in SLOW), default=0),
        reverse=is_spread,
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep files whole over processes, for the fixtures that their tests share.

    By marks (`--dist loadgroup`) xdist 3.8 does not do it beside pytest 9.2 (pytest-dev/pytest-xdist#1386).
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped] # it has no types

    class Files(LoadScopeScheduling):  # type: ignore[misc] # the same
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False
    return Files(config, log)


def scope_of(nodeid: str) -> str:
    """Return what goes to one process: a file, or a folder of those TOGETHER."""
    return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


@pytest.fixture(scope="session")
def is_long(pytestconfig: pytest.Config) -> bool:
    """True under `scripts/test --long`: cases marked `long` then run for as long as the contract says."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session", autouse=True)
def strange_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run everything as on a machine that nobody has used: no settings, no sign-ins, no outgoing proxy.

    Yields the folder that holds this run's configuration and state, which the programs started by tests share.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:  # noqa: TID251 - the tests' own environment
            if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for kind in ("CONFIG", "STATE", "DATA"):
            patch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
        yield home


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """Fail the test if a task or a descriptor that it opened is still there two seconds after its end.

    Ask for it before the fixtures whose leaks it shall see; they are closed before it looks.
    """
    tasks, descriptors = asyncio.all_tasks(), _descriptors()
    yield
    own = asyncio.current_task()
    await eventually(lambda: asyncio.all_tasks() <= tasks | {own}, 2, what="the end of every task of the test")
    await eventually(lambda: _descriptors() <= descriptors, 2, what="the close of every descriptor of the test")


def _descriptors() -> int:
    folder = Path("/proc/self/fd")  # Linux alone; elsewhere the tasks are what is looked at
    return len([*folder.iterdir()]) if folder.is_dir() else 0


@pytest.fixture(autouse=True)
def as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the extra `fast` out, as most people do; tests of it bring it back by `fast_tls`."""
    monkeypatch.setitem(sys.modules, "aiofastnet", None)


@pytest.fixture
def fast_tls(as_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use aiofastnet for connections to upstreams."""
    monkeypatch.delitem(sys.modules, "aiofastnet")
    if find_spec("aiofastnet") is None:
        need("the library aiofastnet", how="pip install 'bearerproxy[fast]'")


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Leave the libraries' loggers as they were: commands that run in this process turn them down."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in QUIETED)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = [handler for handler in logger.handlers if handler in handlers]


@pytest.fixture
def unused_port() -> int:
    """Return a free TCP port on 127.0.0.1."""
    return free_port()
