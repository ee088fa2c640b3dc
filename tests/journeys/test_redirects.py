"""What leads callers elsewhere: presigned links, cookies, redirects that nobody here follows (A29, A30, S29, S31)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import requests

from proxy.guard import Guard
from tests.conftest import need_program
from tests.journeys.house import FixedSource, RawUpstream, Visit, answering, ok, raw_upstream, running

pytestmark = pytest.mark.usefixtures("client_end")

SIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature=0a1b2c"


def presigned(bucket: RawUpstream) -> bytes:
    """Return Provena's answer to who asks for a file: the bucket, for who has this link."""
    link = f"http://127.0.0.1:{bucket.port}/datasets/10378.1/data.csv?{SIGNED}"
    return f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {link}\r\nContent-Length: 0\r\n\r\n".encode()


Reader = Callable[[str], Awaitable[bytes]]
"""A tool that follows redirects."""


async def curl(*arguments: str) -> bytes:
    program = need_program("curl", how="apt-get install curl")
    process = await asyncio.create_subprocess_exec(
        program, "-sS", "-L", "-m", "10", *arguments, stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0]


async def read_by_requests(url: str) -> bytes:
    def read() -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=10).content

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("read", [curl, read_by_requests])
async def test_a29_a_presigned_link_is_followed_by_the_tool_without_our_token(read: Reader) -> None:
    """The bucket sees what the tool sent, to the letter of the signed query, and nothing of ours (S27, S29)."""
    source = FixedSource()
    async with (
        raw_upstream(ok) as bucket,
        raw_upstream(answering(presigned(bucket))) as there,
        running([there.upstream()], sources={"me": source}) as proxy,
    ):
        got = await read(f"http://localhost:{proxy.port}/data/fetch")

    assert got == b"hello"
    (asked,) = bucket.heads
    assert asked.startswith(f"GET /datasets/10378.1/data.csv?{SIGNED} HTTP/1.1\r\n".encode())
    assert {name.lower() for name, _ in bucket.fields()}.isdisjoint({b"authorization", b"cookie", b"via"})
    assert source.uses == 1


async def test_a6_a_key_in_the_base_url_does_not_go_on_to_the_bucket() -> None:
    """Unlike a field that a tool was told to send: tools repeat those wherever a redirect leads (docs/security.md)."""
    async with (
        raw_upstream(ok) as bucket,
        raw_upstream(answering(presigned(bucket))) as there,
        running([there.upstream()], guard=Guard(api_key="s3cret")) as proxy,
    ):
        got = await curl(f"http://any:s3cret@localhost:{proxy.port}/data/fetch")

    assert got == b"hello"
    assert bucket.field(b"authorization") == []


async def test_a29_a_redirect_to_another_mount_is_no_answer() -> None:
    """Nothing is followed here, and nobody is sent there; what is relative is the upstream's own (S26)."""

    async def astray(visit: Visit) -> None:
        where = visit.head.split(b" ")[1]
        await visit.send(b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % targets[where])

    async with (
        raw_upstream(astray) as there,
        raw_upstream(ok) as other,
        running([there.upstream("data"), other.upstream("other")]) as proxy,
    ):
        targets = {
            b"/full": b"http://localhost:%d/other/x" % proxy.port,
            b"/page": b"http://127.0.0.1:%d/-/" % proxy.port,
            b"/up": b"../other/x",
        }
        got = [await proxy.ask(f"/data{where.decode()}") for where in targets]

    assert [one.status for one in got] == [502, 502, 307]
    assert b"[upstream.data] redirects to another mount or to a page of this proxy" in got[0].body
    assert got[2]["location"] == b"http://localhost:%d/data/other/x" % proxy.port  # the upstream's own /other/x
    assert other.connections == 0


async def test_a30_s31_cookies_pass_where_the_upstream_says_so_and_stay_in_its_mount() -> None:
    """A real cookie jar, two mounts with cookies and one without: each service sees its own and no other's."""

    def setting(name: str) -> bytes:
        fields = f"Set-Cookie: {name}=1; Domain=127.0.0.1; Path=/; Secure; HttpOnly\r\nSet-Cookie: {name}2=1\r\n"
        return f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode()

    async with (
        raw_upstream(answering(setting("a"))) as first,
        raw_upstream(answering(setting("b"))) as second,
        raw_upstream(answering(setting("c"))) as third,
    ):
        mounts = [
            first.upstream("first", passes_cookies=True),
            second.upstream("second", passes_cookies=True),
            third.upstream("third"),
        ]
        async with running(mounts) as proxy:

            def read() -> list[str]:
                with requests.Session() as session:
                    session.trust_env = False
                    for _ in range(2):
                        for mount in ("first", "second", "third"):
                            session.get(f"http://localhost:{proxy.port}/{mount}/x", timeout=10)
                    session.get(f"http://localhost:{proxy.port}/-/", timeout=10)
                    return sorted(cookie.name for cookie in session.cookies)

            kept = await asyncio.to_thread(read)

    assert kept == ["a", "a2", "b", "b2"]
    assert [one.field(b"cookie", 0) for one in (first, second, third)] == [[], [], []]
    assert [sorted(b"; ".join(one.field(b"cookie", 1)).split(b"; ")) for one in (first, second, third)] == [
        [b"a2=1", b"a=1"], [b"b2=1", b"b=1"], [b""],
    ]  # fmt: skip


async def test_a32_s28_a_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor sent: whose password stands there for the upstream's host is none of our business."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\nmachine localhost login me password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with raw_upstream(ok) as there, running([there.upstream(identity=None)]) as proxy:
        got = await proxy.ask("/data/x")

    assert got.status == 200
    assert there.field(b"authorization") == []
