"""For tests: answers of any size, and answers that break off. Never part of the demo that people see."""

import random
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from proxy.demo.serving import BREAK

_BLOCK = 65_536


def seeded_bytes(size: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `size` bytes in blocks of 64 KiB that depend on (`seed`, position) alone; no two blocks are the same."""
    block = random.Random(seed).randbytes(_BLOCK)  # noqa: S311 - test data, not a secret
    for start in range(0, size, _BLOCK):
        yield (start.to_bytes(8, "big") + block[8:])[: size - start]


def fault_routes() -> list[BaseRoute]:
    """Return the routes.

    `GET /demo/bytes/{n}?seed=0&length=yes` is `seeded_bytes`, with a Content-Length unless `length=no`.
    `GET /demo/broken/{n}?at=K&how=close&length=yes` promises n bytes and breaks the connection after K (default n/2) of
    them by FIN (`how=close`), or after at most K by RST (`how=reset`); with `length=no` the broken body is chunked.
    """
    return [Route("/demo/bytes/{n:int}", _bytes), Route("/demo/broken/{n:int}", _Broken())]


async def _bytes(request: Request) -> Response:
    size = request.path_params["n"]
    blocks = seeded_bytes(size, int(request.query_params.get("seed", "0")))

    async def body() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    headers = {"Content-Length": str(size)} if _has_length(request) else {}
    return StreamingResponse(body(), headers=headers, media_type="application/octet-stream")


class _Broken:
    """An ASGI endpoint, because only the scope knows how to break the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        size = request.path_params["n"]
        headers = [(b"content-type", b"application/octet-stream")]
        if _has_length(request):
            headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for block in seeded_bytes(int(request.query_params.get("at", size // 2))):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        scope["extensions"][BREAK](reset=request.query_params.get("how") == "reset")
        while (await receive())["type"] != "http.disconnect":
            pass


def _has_length(request: Request) -> bool:
    return request.query_params.get("length", "yes") == "yes"
