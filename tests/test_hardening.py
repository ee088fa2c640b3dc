"""What other processes of this machine see of ours: no core, no memory, no environment (A31, S15, S16)."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.demo import Demo
from proxy.hardening import harden
from proxy.secret_refs import shown_environment
from tests import command
from tests.conftest import need_program
from tests.poll import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, which Linux alone has")

CANARY = "canary-of-the-environment"
CONFIG = """
[identity.me]
issuer = "{issuer}"
client_id = "client-tools"
client_secret = "env:MY_CLIENT_SECRET"

[store]
kind = "file"
path = "{store}"
"""


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with Demo() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MY_CLIENT_SECRET", CANARY)
    monkeypatch.setenv("BEARERPROXY_SERVER__API_KEY", CANARY)
    file = tmp_path / "proxy.toml"
    file.write_text(CONFIG.format(issuer=demo.issuer_url, store=tmp_path / "store"))
    return file


def as_people_do() -> tuple[str, ...]:
    """Return what to put before a command: root's privileges are dropped, because nothing would stop them."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return ()
    setpriv = need_program("setpriv", how="apt-get install util-linux")
    return setpriv, "--inh-caps", "-all", "--bounding-set", "-all"


def looked_at(pid: int) -> list[bytes]:
    """Return what another process of this user reads of a process's environment, and why it did not."""
    command_line = [*as_people_do(), "cat", f"/proc/{pid}/environ"]
    seen = subprocess.run(command_line, capture_output=True, check=False, timeout=30)
    return [seen.stdout, seen.stderr]


def _program(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]


def core_limit(pid: int) -> list[str]:
    line = next(one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if one.startswith("Max core file"))
    return line.split()[4:6]


def test_a31_a_neighbour_reads_the_environment_of_what_is_not_hardened() -> None:
    """The look of the other tests sees something where there is something to see."""
    with subprocess.Popen([*as_people_do(), "sleep", "60"], env={"X": CANARY}) as plain:
        try:
            asyncio.run(eventually(lambda: _program(plain.pid) == b"sleep", what="the program"))
            assert looked_at(plain.pid) == [f"X={CANARY}\0".encode(), b""]
        finally:
            plain.kill()


async def test_a31_a_server_leaves_no_core_and_lets_nobody_look(config: Path) -> None:
    async with command.serving(config, before=as_people_do()) as serving:
        pid = serving.process.pid
        seen, why = looked_at(pid)

        assert core_limit(pid) == ["0", "0"]
        assert seen == b""
        assert b"Permission denied" in why


async def test_a31_so_does_a_sign_in(config: Path) -> None:
    async with command.login("me", "--config", config, before=as_people_do()) as waiting:
        assert core_limit(waiting.process.pid) == ["0", "0"]
        assert looked_at(waiting.process.pid)[0] == b""


def test_a31_so_does_every_other_command(config: Path) -> None:
    """`token` ends too soon to be looked at from outside, so it looks at itself."""
    code = (
        "import ctypes, resource, sys\n"
        "from proxy.cli import main\n"
        "try:\n"
        "    main(['token', '--config', sys.argv[1]])\n"
        "finally:\n"
        "    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, config], capture_output=True, text=True, check=False, timeout=60
    )

    assert ended.returncode == 3, ended.stderr  # nobody is signed in
    assert ended.stdout == "0 (0, 0)\n"


def test_a31_hardening_twice_is_no_mistake() -> None:
    code = "from proxy.hardening import harden; harden(); harden(); print('served')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert callable(harden)
    assert (ended.stdout, ended.stderr) == ("served\n", "")


async def test_s15_the_browser_of_a_sign_in_does_not_inherit_our_secrets(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the link and the person's session, and neither variables that hold secrets nor settings of ours."""
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.new\nenv >> {seen}.new\nmv {seen}.new {seen}\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("PERSONS_OWN", "stays")
    monkeypatch.setenv("PROVENA_API_TOKEN", CANARY)
    process = await command.started("login", "me", "--config", config)
    try:
        await eventually(seen.exists, 60, what="the browser")
    finally:
        await command.ended(process)
    link, *variables = seen.read_text().splitlines()

    assert "user_code=" in link
    assert "PERSONS_OWN=stays" in variables
    assert CANARY not in seen.read_text()


def test_s15_what_a_program_of_ours_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MINE", "HIDDEN", "BEARERPROXY_STORE__KEY", "RRAP_OFFLINE_TOKEN"):
        monkeypatch.setenv(name, "x")
    shown = shown_environment({"HIDDEN"})

    assert shown["MINE"] == "x"
    assert not {"HIDDEN", "BEARERPROXY_STORE__KEY", "RRAP_OFFLINE_TOKEN"} & {*shown}
