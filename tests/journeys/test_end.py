"""The command's end under a signal, with everything running at once (A45, T26)."""

import asyncio
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.stores import FileStore
from proxy.tokens import TokenSet
from tests.command import serving
from tests.journeys.house import Visit, calling, ok, parsed, raw_upstream
from tests.poll import eventually

CONFIG = """
[server]
drain_seconds = {drain}
[store]
kind = "file"
path = "{path}"
[log]
format = "json"
[identity.me]
issuer = "http://127.0.0.1:{issuer}"
token_endpoint = "http://127.0.0.1:{issuer}/token"
client_id = "us"
[identity.renewed]
issuer = "http://127.0.0.1:{issuer}"
token_endpoint = "http://127.0.0.1:{issuer}/token"
client_id = "us"
[upstream.data]
url = "http://127.0.0.1:{data}"
identity = "me"
[upstream.late]
url = "http://127.0.0.1:{data}"
identity = "renewed"
"""
NEW = b'{"access_token": "new", "refresh_token": "newer", "token_type": "Bearer", "expires_in": 300}'

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def held(issuer: int, *, life: float) -> TokenSet:
    now = SystemClock().wall()
    return TokenSet(
        "old", now + life, now - 400, client_id="us", grant="device_code", refresh_token="older",
        issuer=f"http://127.0.0.1:{issuer}", epoch=1, signed_in_at=now - 400,
    )  # fmt: skip


async def serving_data(visit: Visit) -> None:
    """Events without an end, and uploads."""
    if b" /events " not in visit.head:
        await ok(visit)
        return
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await visit.send(b"f\r\ndata: begun\r\n\r\n\r\n")
    await visit.gone()


@pytest.mark.parametrize("is_renewed_late", [False, True], ids=["within-the-drain", "behind-the-drain"])
async def test_a45_t26_a_signal_with_an_upload_events_and_a_renewal_running(
    tmp_path: Path, *, is_renewed_late: bool
) -> None:
    """New connections refused, the upload done, the events cut visibly, the new token stored, exit 0 (H56)."""
    may_answer = asyncio.Event()

    async def issuing(visit: Visit) -> None:
        await visit.body()
        await may_answer.wait()
        await visit.send(JSON % len(NEW) + NEW)

    state, config = tmp_path / "state", tmp_path / "proxy.toml"
    async with raw_upstream(issuing) as issuer, raw_upstream(serving_data) as data:
        store = FileStore(state)
        await store.save("me", held(issuer.port, life=3000))
        await store.save("renewed", held(issuer.port, life=-60))
        config.write_text(CONFIG.format(drain=2.5, path=state, issuer=issuer.port, data=data.port))
        async with (
            serving(config) as there,
            calling(there.port, seconds=60) as events,
            calling(there.port, seconds=60) as upload,
            calling(there.port, seconds=60) as waiting,
        ):
            await events.send(b"GET /data/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await events.reader.readuntil(b"begun\r\n\r\n")
            await upload.send(b"POST /data/up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello")
            await waiting.send(b"GET /late/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: len(data.heads) == 2 and issuer.heads, what="all three at work")
            there.process.terminate()

            async def is_refused() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", there.port)
                except ConnectionError:  # reset: it came when the listener was about to close
                    return True
                writer.close()
                return False

            await eventually(is_refused, what="the end of listening")
            await upload.send(b"world")
            uploaded = parsed(await upload.rest())
            if is_renewed_late:
                cut = await events.rest()
                may_answer.set()
                late = await waiting.rest()
            else:
                may_answer.set()
                late = await waiting.rest()
                cut = await events.rest()
            status = await there.process.wait()
        kept = await store.load("renewed")
        await store.close()

    assert (uploaded.status, uploaded.body, uploaded["connection"]) == (200, b"hello", b"close")
    assert b"helloworld" in data.bodies
    assert b"0\r\n\r\n" not in cut  # no last chunk: whoever reads events sees that they broke off
    assert (late == b"") if is_renewed_late else (parsed(late).status, parsed(late).body) == (200, b"hello")
    assert kept is not None
    assert (kept.access_token, kept.refresh_token) == ("new", "newer")
    assert len(issuer.heads) == 1
    assert status == 0
    assert [one for one in there.events if one["event"] == "failed"] == []
    assert f"(server.drain_seconds): {2 if is_renewed_late else 1} of the requests" in "".join(there.lines)
