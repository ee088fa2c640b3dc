"""A relay on aiohttp, streaming both ways. Arguments: PORT TLS PLAIN CA; the token is in BENCH_TOKEN."""

import os
import ssl
import sys
from collections.abc import AsyncIterator

import uvloop
import yarl
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authorization"}
CHUNK_BYTES = 1 << 16


class Relay:
    """Two mounts, one session, one token."""

    def __init__(self, tls: str, plain: str, ca_file: str, token: str) -> None:
        self._upstreams = {"tls": tls, "plain": plain}
        self._authorization = f"Bearer {token}"
        self._ca_file = ca_file

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        trust = ssl.create_default_context(cafile=self._ca_file)
        self._http = ClientSession(
            connector=TCPConnector(limit=0, ssl=trust), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        yield
        await self._http.close()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        mount, _, rest = request.raw_path[1:].partition("/")
        fields = [(name, value) for name, value in request.headers.items() if name.lower() not in {*HOP_BY_HOP, "host"}]
        fields.append(("Authorization", self._authorization))
        url = yarl.URL(f"{self._upstreams[mount]}/{rest}", encoded=True)
        body = request.content if request.can_read_body else None
        async with self._http.request(
            request.method, url, headers=fields, data=body, allow_redirects=False
        ) as upstream:
            response = web.StreamResponse(status=upstream.status)
            for name, value in upstream.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in upstream.content.iter_chunked(CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
            return response


def main() -> None:
    port, tls, plain, ca_file = sys.argv[1:]
    relay = Relay(tls, plain, ca_file, os.environ["BENCH_TOKEN"])
    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(relay.session)
    app.router.add_route("*", "/{path:.*}", relay)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
