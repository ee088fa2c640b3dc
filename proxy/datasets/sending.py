"""One answer of the face on its way to the caller: its head once, its body as it comes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from proxy.asgi import Send
from proxy.datasets.answers import OWN_PAGE
from proxy.events import Relayed
from proxy.headers import Fields, masked_target
from proxy.request import Request

FORM_TYPES = {"html": b"text/html; charset=utf-8", "json": b"application/json", "csv": b"text/csv; charset=utf-8"}


class Answer:
    """One answer on its way to the caller."""

    def __init__(self, request: Request, send: Send, extra: Fields) -> None:
        self.status = 0
        """0 until the head is out."""
        self.sent = 0
        self._request = request
        self._send = send
        self._extra = extra
        self._is_complete = False

    async def start(self, status: int, fields: Fields) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": [*fields, *self._extra]})
        self.status = status

    async def stream(self, chunks: AsyncGenerator[bytes, None], head: bytes = b"") -> None:
        """Send a body as it comes, behind what is there of it already."""
        await self._piece(head)
        async with aclosing(chunks) as body:
            async for chunk in body:
                await self._piece(chunk)
        await self._end()

    async def page(self, form: str, body: bytes) -> None:
        """Send a whole page of ours."""
        fields = [(b"content-type", FORM_TYPES[form]), (b"content-length", b"%d" % len(body)), (b"vary", b"Accept")]
        await self.start(200, [*fields, *OWN_PAGE])
        if self._request.method != "HEAD":
            await self._piece(body)
        await self._end()

    async def empty(self, status: int, fields: Fields, *, keeps_length: bool = False) -> None:
        """Send a head alone, with no body behind it."""
        if not keeps_length:
            fields = [one for one in fields if one[0] != b"content-length"]
            if status not in (204, 304) and self._request.method != "HEAD":  # RFC 9110 8.6
                fields = [*fields, (b"content-length", b"0")]
        await self.start(status, fields)
        await self._end()

    async def _piece(self, chunk: bytes) -> None:
        if chunk:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self.sent += len(chunk)

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self._is_complete = True

    def outcome(self, name: str, seconds: float) -> Relayed:
        return Relayed(
            upstream=f"{name}_datasets",
            method=self._request.method,
            target=masked_target(self._request.target),
            status=self.status,
            received=0,
            sent=self.sent,
            seconds=seconds,
            is_complete=self._is_complete,
        )
