"""A disk that is really full, under a real server: a small tmpfs that only its process sees (A42, T14)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from proxy.clock import SystemClock
from proxy.demo import Demo, Lifetimes
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests import command
from tests.conftest import need, need_program
from tests.journeys.house import Visit, raw_upstream
from tests.journeys.test_store_trouble import CONFIG, LIFE, Going

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")

KIB, MIB = 1024, 1024 * 1024
FULL = "No space left on device"


def in_small_disk(folder: Path, size: int) -> tuple[str, ...]:
    """Return what to put before a command, so that `folder` is a disk of `size` bytes for it: a copy of what is there.

    The mount is the command's own and ends with it; others look into it by /proc/PID/root.
    """
    unshare = need_program("unshare", how="apt-get install util-linux")
    if subprocess.run([unshare, "--mount", "true"], check=False, capture_output=True).returncode != 0:
        need("the right to mount", how="run the suite as root, as CI does")
    aside = folder.with_name(f"{folder.name}-before")
    shutil.copytree(folder, aside, copy_function=shutil.copy2)
    script = 'mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" && cp -pR "$3/." "$2" && shift 3 && exec "$@"'
    return unshare, "--mount", "sh", "-c", script, "sh", str(size), str(folder), str(aside)


def seen_by(serving: command.Serving, path: Path) -> Path:
    """Return where `path` of the server's own disks is for us."""
    return Path(f"/proc/{serving.process.pid}/root") / path.relative_to("/")


def fill(folder: Path) -> Path:
    """Write a file until nothing more fits into `folder`, and return it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4 * KIB))
        except OSError:
            return filler


def put(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def test_a42_t14_a_full_disk_under_the_token_file(tmp_path: Path) -> None:
    """Memory serves on, through renewals; the file stays whole; once there is room it is written by itself."""
    state, config = tmp_path / "state", tmp_path / "proxy.toml"
    async with Demo(rotation=True, lifetimes=Lifetimes(access_seconds=LIFE)) as demo:
        put(config, CONFIG.format(issuer=demo.issuer_url, data=demo.data_url, store=state))
        given, now = demo.issuer.mint("client-tools", "ada"), SystemClock().wall()
        await FileStore(state).save("me", TokenSet(
            str(given["access_token"]), now + LIFE, now, client_id="client-tools", grant="device_code",
            refresh_token=str(given["refresh_token"]), issuer=demo.issuer_url,
        ))  # fmt: skip
        async with command.serving(config, before=in_small_disk(state, 64 * KIB)) as serving:
            going = Going(demo, serving, seen_by(serving, state / "tokens.json"))
            filler = fill(going.file.parent)
            await going.serve_past(0, lambda: len(going.troubles), "the trouble")
            await going.serve_past(going.renewals + 1, lambda: going.renewals, "renewals that memory alone has")
            assert len(going.troubles) == 1
            assert FULL in going.troubles[0]
            put(filler, None)
            await going.is_stored_again()
            assert not list(going.file.parent.glob(".tokens-*"))  # what did not fit was not left lying about
            assert await serving.stop() == 0

    assert "Traceback" not in "".join(serving.lines)


SPOOLING = """
[server]
spool = "{spool}"

[identity.me]
issuer = "http://127.0.0.1:1"
client_id = "client-tools"

[upstream.data]
url = "http://127.0.0.1:{port}"
identity = "me"

[store]
kind = "file"
path = "{store}"

[log]
format = "json"
"""


async def test_a42_a_full_disk_under_the_spool(tmp_path: Path) -> None:
    """Uploads go through whole; that they are not kept for a second try is told once (T14)."""
    state, spool, config = tmp_path / "state", tmp_path / "spool", tmp_path / "proxy.toml"
    spool.mkdir()
    bodies = [os.urandom(6 * MIB) for _ in range(3)]

    async def taking(visit: Visit) -> None:
        await visit.body()
        await visit.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with raw_upstream(taking) as upstream:
        put(config, SPOOLING.format(spool=spool, port=upstream.port, store=state))
        now = SystemClock().wall()
        await FileStore(state).save("me", TokenSet("t", now + 3600, now, client_id="client-tools", grant="device_code"))
        async with (
            command.serving(config, before=in_small_disk(spool, 256 * KIB)) as serving,
            httpx2.AsyncClient(base_url=serving.url, trust_env=False, timeout=60) as http,
        ):
            _ = fill(seen_by(serving, spool))
            answers = [await http.post("/data/x", content=body) for body in bodies]
            told = [one["message"] for one in serving.events if "kept for a second try" in one.get("message", "")]

    assert [answer.status_code for answer in answers] == [204, 204, 204]
    assert upstream.bodies == bodies
    assert len(told) == 1
    assert FULL in told[0]
