"""The relay that everybody writes first: Starlette's StreamingResponse over httpx. Arguments: PORT TLS PLAIN CA."""

import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PORT, TLS, PLAIN, CA_FILE = sys.argv[1:]
AUTHORIZATION = f"Bearer {os.environ['BENCH_TOKEN']}"
UPSTREAMS = {"tls": TLS, "plain": PLAIN}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HTTP = httpx.AsyncClient(
    verify=ssl.create_default_context(cafile=CA_FILE),
    timeout=None,  # noqa: S113 - slow streams are part of the comparison
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=512),
)


async def relay(request: Request) -> StreamingResponse:
    headers = {name: value for name, value in request.headers.items() if name not in {"host", "connection"}}
    headers["authorization"] = AUTHORIZATION
    has_body = "content-length" in headers or "transfer-encoding" in headers
    upstream_request = HTTP.build_request(
        request.method,
        f"{UPSTREAMS[request.path_params['mount']]}/{request.path_params['path']}",
        params=request.query_params,
        headers=headers,
        content=request.stream() if has_body else None,
    )
    response = await HTTP.send(upstream_request, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        headers=response.headers,
        background=BackgroundTask(response.aclose),
    )


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with HTTP:
        yield


app = Starlette(routes=[Route("/{mount}/{path:path}", relay, methods=METHODS)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), access_log=False, log_level="warning", backlog=4096)
