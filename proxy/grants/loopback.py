"""A listener on 127.0.0.1 for the browser that comes back (RFC 8252 7.3), which lives as long as one flow."""

import asyncio
from http import HTTPStatus

from proxy.grants.way_back import UNKNOWN, BadCallback, WayBack, refuse_all_but_navigations
from proxy.tasks import Tasks

PATH = "/callback"
HEAD_LIMIT = 32 * 1024
HEAD_SECONDS = 10.0

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>bearerproxy</title>
<style>body{{font:1.2rem system-ui;margin:20vh auto;max-width:30rem;text-align:center}}</style>
<p>{}</p></html>
"""


def read_query(head: bytes, *, port: int) -> str:
    """Return the query of a request's `head`; raises BadCallback if that is no navigation to our path."""
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest)]
    if len(parts) != 3:
        raise BadCallback(HTTPStatus.BAD_REQUEST)
    if [value for name, value in fields if name == "host"] != [f"127.0.0.1:{port}"]:
        raise BadCallback(HTTPStatus.FORBIDDEN)  # DNS rebinding: the name in the address bar was another one
    refuse_all_but_navigations(fields)
    path, _, query = parts[1].partition("?")
    if path != PATH:
        raise BadCallback(HTTPStatus.NOT_FOUND)
    if parts[0] != "GET":
        raise BadCallback(HTTPStatus.METHOD_NOT_ALLOWED)
    return query


def page(status: HTTPStatus, text: str) -> bytes:
    """Return a whole answer whose page is `text` alone: nothing of the request comes back in it."""
    body = _PAGE.format(text).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Referrer-Policy: no-referrer",  # the address bar holds the code
        "Cache-Control: no-store",
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class Listener:
    """A web server for one way back: `async with` opens it on an ephemeral port, yields its URI, and closes it."""

    def __init__(self, way_back: WayBack) -> None:
        self._way_back = way_back
        self._owed: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self._port = self._server.sockets[0].getsockname()[1]
        # An address, not `localhost`, which could be somebody else's (RFC 8252 8.3).
        return f"http://127.0.0.1:{self._port}{PATH}"

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self._way_back.close()
        if self._owed is not None:
            await asyncio.wait({self._owed}, timeout=HEAD_SECONDS)
        await self._tasks.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _ = self._tasks.start(self._serve(reader, writer), name="sign-in callback")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._answer(head))
            async with asyncio.timeout(HEAD_SECONDS):
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever that was is no browser, or has gone; the flow waits on
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        try:
            self._way_back.take(read_query(head, port=self._port))
        except BadCallback as bad:
            return page(bad.status, UNKNOWN)
        self._owed = asyncio.current_task()
        return page(HTTPStatus.OK, await self._way_back.words())
