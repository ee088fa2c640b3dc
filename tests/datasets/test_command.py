"""`bearerproxy datasets …` and `serve`, as processes of their own, in front of a deployment that misbehaves."""

import asyncio
import hashlib
import io
import json
import random
import signal
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from proxy.cli.dataset_copies import line
from proxy.datasets.copies import Copies
from tests.command import bearerproxy, resident_bytes, serving, started
from tests.datasets.deployment import HANDLE, Deployment, File, deployed, sign_in
from tests.poll import eventually

MIB = 1 << 20


@pytest.fixture
async def there() -> AsyncIterator[Deployment]:
    async with deployed() as running:
        yield running


@pytest.fixture
async def config(there: Deployment, tmp_path: Path) -> Path:
    """A configuration that is signed in."""
    await sign_in(str(tmp_path / "state"))
    file = tmp_path / "proxy.toml"
    file.write_text(there.configuration(str(tmp_path / "state")), "utf-8")
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {
        one.relative_to(folder).as_posix(): hashlib.sha256(one.read_bytes()).digest()
        for one in folder.rglob("*")
        if one.is_file()
    }


def wanted(there: Deployment) -> dict[str, bytes]:
    found = {}
    for path, file in there.files.items():
        pieces = (file.piece(start, min(start + 65536, file.size)) for start in range(0, file.size, 65536))
        found[path] = hashlib.sha256(b"".join(pieces)).digest()
    return found


async def test_get_that_is_killed_at_random_moments_ends_in_an_equal_tree(
    there: Deployment, config: Path, tmp_path: Path, is_long: bool
) -> None:
    """Files under their final names are whole at every moment."""
    chance = random.Random(8)  # noqa: S311 - repeatable, no secret
    there.files |= {f"part {n}/é{n}.bin": File(size=(n + 1) * 400_000, version=n) for n in range(6)}
    there.files |= {f"small/{n}.csv": File(b"x" * n) for n in range(30)}
    whole, to = wanted(there), tmp_path / "out"
    command = ("datasets", "get", HANDLE, "--to", to, "--config", config)
    for _ in range(20 if is_long else 3):
        reads = len(there.gets)
        there.cuts = [chance.randrange(1, 300_000) for _ in range(3)]
        process = await started(*command)
        await _some_reads(there, process, reads + chance.randrange(2, 14))
        if process.returncode is None:
            process.kill()
        await process.communicate()
        there.cuts = []
        have = {path: digest for path, digest in contents(to).items() if not path.endswith(".part")}
        assert have.items() <= whole.items()
    ended = await bearerproxy(*command)

    assert ended.exit_status == 0, ended.complaint
    assert contents(to) == whole


async def _some_reads(there: Deployment, process: asyncio.subprocess.Process, goal: int) -> None:
    await eventually(lambda: len(there.gets) >= goal or process.returncode is not None, 30, what="some reads")


async def test_get_says_what_failed_and_leaves_with_1(there: Deployment, config: Path, tmp_path: Path) -> None:
    there.files |= {"a.csv": File(b"a"), "../evil": File(b"x"), "c.csv": File(b"c")}
    ended = await bearerproxy("datasets", "get", HANDLE, "--to", tmp_path / "out", "--config", config)
    missing = await bearerproxy("datasets", "get", HANDLE, "no.csv", "--to", tmp_path / "out", "--config", config)

    assert (ended.exit_status, missing.exit_status) == (1, 1)
    assert "2 files written" in ended.words
    assert "1 failed: ../evil: its name has no place below a folder" in ended.words
    assert "no.csv: the dataset has no file or folder of this name" in missing.words
    assert set(contents(tmp_path / "out")) == {"a.csv", "c.csv"}
    assert not (tmp_path / "evil").exists()


async def test_what_fits_nothing_is_no_success(there: Deployment, config: Path, tmp_path: Path) -> None:
    """A script that goes on after `get` finds the files there."""
    there.files |= {"a.csv": File(b"a")}
    command = ("datasets", "--provena", "provena")  # before the command or behind it
    ls = await bearerproxy(*command, "ls", HANDLE, "nope", "--config", config)
    get = await bearerproxy(*command, "get", HANDLE, "--include", "*.nc", "--to", tmp_path / "out", "--config", config)
    unknown = await bearerproxy("datasets", "--provena", "nope", "ls", HANDLE, "--config", config)

    assert (ls.exit_status, get.exit_status, unknown.exit_status) == (1, 1, 2)
    assert "has no file or folder 'nope'" in ls.words
    assert "no file that fits" in get.words
    assert "no Provena deployment 'nope'" in unknown.words


def test_a_log_is_told_how_far_a_copy_is(tmp_path: Path) -> None:
    """Where no person looks there is a line now and then, instead of a bar."""
    copies = Copies(tmp_path, lambda _: pytest.fail("nothing is read"))
    copies.count, copies.total, copies.done, copies.fetched = 30, 10_000_000_000, 4_000_000_000, 3_000_000_000

    assert line(copies, 60.0) == "0 of 30 files, 4.0 GB of 10 GB, 50 MB/s, 2 min left"
    assert line(Copies(tmp_path, copies.download), 0.0) == "0 of 0 files, 0 bytes of 0 bytes, 0 bytes/s"


async def test_credentials_come_with_what_is_needed_to_use_them(there: Deployment, config: Path) -> None:
    """The form for AWS's own programs is used by them in test_clients.py."""
    env, as_json = [
        (await bearerproxy("datasets", "credentials", HANDLE, "--format", form, "--config", config)).output
        for form in ("env", "json")
    ]
    told = json.loads(as_json)

    assert "export AWS_SESSION_TOKEN=canary-session-1\n" in env
    assert f"export AWS_ENDPOINT_URL={there.storage_url}\n" in env
    assert {"AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"} <= set(told)
    assert (told["Bucket"], told["Prefix"]) == ("store", "datasets/10378-1-77/")


async def test_somebody_who_is_not_signed_in_is_told_so(there: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(there.configuration(str(tmp_path / "nobody")), "utf-8")

    assert (await bearerproxy("datasets", "ls", HANDLE, "--config", file)).exit_status == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; run it on Linux")
@pytest.mark.long
async def test_memory_stays_flat_on_large_files_and_zips(there: Deployment, config: Path, is_long: bool) -> None:
    """2 GiB and a ZIP of 3 000 files in the long form, a sixteenth and a tenth of it in the short one; (A28)."""
    size, count = (2048 * MIB, 3000) if is_long else (128 * MIB, 300)
    there.files |= {"big.bin": File(size=size)} | {f"f/{n:05}.csv": File(b"%d" % n * 200) for n in range(count)}
    async with serving(config) as proxy, httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        base = f"{proxy.url}/provena/datasets/{HANDLE}"
        await http.get(f"{base}/files/f/00000.csv")
        await http.get(f"{base}/files/f/?format=json")
        before, highest, got = await resident_bytes(proxy.process), 0, 0
        archive = io.BytesIO()
        for url in (f"{base}/files/big.bin", f"{base}/files/f/?format=zip"):
            async with http.stream("GET", url) as answer:
                async for chunk in answer.aiter_raw(1 << 20):
                    got += len(chunk)
                    if url.endswith("zip"):
                        archive.write(chunk)
                    highest = max(highest, await resident_bytes(proxy.process))
    grown = (highest - before) / MIB

    assert len(zipfile.ZipFile(archive).namelist()) == count
    assert got == size + len(archive.getvalue())
    assert grown < 32, f"grew by {grown:.1f} MiB"
    assert there.links + there.keys < 8


async def test_no_secret_is_in_a_log_or_on_a_command_line(there: Deployment, config: Path, tmp_path: Path) -> None:
    """Canaries at level debug, with a storage that fails and links that end (A31)."""
    there.files |= {"a.csv": File(b"a" * 100_000)}
    async with serving(config, "--log-level", "debug") as proxy:
        there.cuts, there.on_cut, there.statuses = [500], ["end links"], [503]
        bodies = [(await proxy.get(f"/provena/datasets/{HANDLE}/files/a.csv")).content]
        there.statuses = [403] * 9
        bodies += [
            (await proxy.get(f"/provena/datasets/{HANDLE}/{one}")).content for one in ("files/a.csv", "", ".zip")
        ]
        await proxy.stop()
        lines = list(proxy.lines)
    there.statuses = []
    ended = await bearerproxy("datasets", "get", HANDLE, "--to", tmp_path / "out", "--config", config)
    told = "".join(lines) + b"".join(bodies).decode() + ended.output + ended.complaint

    assert "relayed" in told
    assert "canary" not in told
    assert "Signature" not in told


async def test_a_file_of_many_gigabytes_is_told_and_read_at_its_end(there: Deployment, config: Path) -> None:
    there.files |= {"big.bin": File(size=6 * 1024 * MIB + 3)}
    async with serving(config) as proxy:
        path = f"/provena/datasets/{HANDLE}/files/big.bin"
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            head = await http.head(proxy.url + path)
        end = await proxy.get(path, {"Range": "bytes=6442450940-"})

    assert (head.status_code, head.headers["content-length"]) == (200, "6442450947")
    assert (end.status_code, end.headers["content-range"]) == (206, "bytes 6442450940-6442450946/6442450947")
    assert end.content == there.files["big.bin"].piece(6442450940, 6442450947)


async def test_a_caller_who_leaves_while_the_storage_is_silent_is_noticed(there: Deployment, config: Path) -> None:
    """Nothing is sent that could fail: only the hang-up itself tells (A20)."""
    there.files |= {"a.bin": File(size=MIB)}
    there.held = asyncio.Event()
    async with serving(config) as proxy, httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        async with http.stream("GET", f"{proxy.url}/provena/datasets/{HANDLE}/files/a.bin"):
            pass
        await eventually(lambda: any(one["event"] == "relayed" for one in proxy.events), 15, what="the end of the read")
        (ended,) = [one for one in proxy.events if one["event"] == "relayed"]
        there.held.set()

    assert (ended["status"], ended["sent"], ended.get("is_complete")) == (200, 0, False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send; run it elsewhere")
async def test_get_that_is_stopped_says_that_it_can_go_on(there: Deployment, config: Path, tmp_path: Path) -> None:
    there.files |= {"a.bin": File(size=MIB)}
    there.held = asyncio.Event()
    process = await started("datasets", "get", HANDLE, "--to", tmp_path / "out", "--config", config)
    await eventually(lambda: there.open == 1, 30, what="it reads")
    process.send_signal(signal.SIGINT)
    output, complaint = await process.communicate()
    there.held.set()

    assert (process.returncode, output) == (130, b"")
    assert complaint == b"Stopped; the same command goes on from here.\n"
    assert not (tmp_path / "out/a.bin").exists()


async def test_two_gets_into_one_folder_do_not_mix(there: Deployment, config: Path, tmp_path: Path) -> None:
    there.files |= {"a.bin": File(size=MIB)}
    there.held = asyncio.Event()
    command = ("datasets", "get", HANDLE, "--to", tmp_path / "out", "--config", config)
    first = await started(*command)
    await eventually(lambda: there.open == 1, 30, what="the first one reads")
    second = await bearerproxy(*command)
    there.held.set()
    await first.communicate()

    assert (second.exit_status, first.returncode) == (1, 0)
    assert "Another get is writing" in second.words
