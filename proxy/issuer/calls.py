"""Calls to the issuer: no redirects, no cookies, nothing from the environment, capped in time and size (S46).

They are rare, so each has a connection of its own: none can be stale (T8).
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2

from proxy import __version__
from proxy.clock import Clock
from proxy.errors import IssuerUnavailable
from proxy.identities import Identity
from proxy.issuer.answer import Answer, date, for_people, skew
from proxy.issuer.refusal import misconfigured
from proxy.transport.pool import Pool
from proxy.transport.tls import Trust

CALL_SECONDS = 10.0
"""Total time for one call to the issuer, from connecting to the last byte."""
SLEPT_SHARE = 1.5
"""Of its time-out, a call takes that much only by clocks that went on without it, as in suspend, or that jumped."""
ANSWER_LIMIT = 1024 * 1024
"""An answer of more bytes is not one; metadata with every extension is some 10 KiB."""


class Calls:
    """Makes them, for one identity; `close` last."""

    def __init__(
        self, identity: Identity, *, clock: Clock, http: httpx2.AsyncBaseTransport | None, trust: Trust
    ) -> None:
        self.skew_seconds = 0.0
        """How far the issuer's clock was ahead of ours in its last answer; 0 if it agrees or does not say."""
        self.was_slept_through = False
        """Whether the machine stood still during the last call: how it ended then says nothing of the issuer (T7)."""
        self._identity = identity
        self._clock = clock
        self._http = http
        self._trust = trust

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def call(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        seconds: float | None = None,
    ) -> Answer:
        """Return the answer, whatever it says. Raises IssuerUnavailable, IdentityMisconfigured."""
        seconds = CALL_SECONDS if seconds is None else seconds
        host = urlsplit(url).netloc.rpartition("@")[2]
        wall, boot = self._clock.wall(), self._clock.boot()
        try:
            async with asyncio.timeout(seconds):
                request = _request(method, url, fields or {}, content, seconds)
                response = await self._transport().handle_async_request(request)
                try:
                    body = await _read(response, host)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise IssuerUnavailable(f"The issuer {host} did not answer within {seconds:.0f} s.") from error
        except (httpx2.TransportError, OSError) as error:
            reason = for_people(str(error)) or type(error).__name__
            raise IssuerUnavailable(f"The issuer {host} cannot be reached: {reason}.") from error
        finally:
            self.was_slept_through = max(self._clock.wall() - wall, self._clock.boot() - boot) > SLEPT_SHARE * seconds
        self.skew_seconds = skew(date(response.headers.get("date", "")), wall, self._clock.wall())
        return Answer(host, response.status_code, response.headers, body, wall, boot)

    def _transport(self) -> httpx2.AsyncBaseTransport:
        if self._http is None:
            network = self._identity.network
            try:
                context = self._trust(network)
            except OSError as error:
                what = f"The CA file {network.ca_file} cannot be used ({error.strerror or error})"
                raise misconfigured(self._identity, what, "correct ca_file") from error
            proxy = None
            if network.proxy is not None:
                is_tls = urlsplit(network.proxy).scheme == "https"
                proxy = httpx2.Proxy(network.proxy, ssl_context=context if is_tls else None)
            limits = httpx2.Limits(max_keepalive_connections=0)
            self._http = Pool(verify=context, trust_env=False, proxy=proxy, limits=limits)
        return self._http


def _request(method: str, url: str, fields: Mapping[str, str], content: bytes | None, seconds: float) -> httpx2.Request:
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",  # a compressed answer could be a bomb, and none is worth compressing (S32)
        "user-agent": f"bearerproxy/{__version__}",
        **fields,
    }
    if content is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    timeouts = {**dict.fromkeys(("read", "write", "pool"), seconds), "connect": CALL_SECONDS}
    return httpx2.Request(method, url, headers=headers, content=content, extensions={"timeout": timeouts})


async def _read(response: httpx2.Response, host: str) -> bytes:
    stream = response.stream  # not `aiter_raw`, which refuses an answer that a test made in memory
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise TypeError("the transport is not an asynchronous one")
    body = bytearray()
    async for piece in stream:
        body += piece
        if len(body) > ANSWER_LIMIT:
            raise IssuerUnavailable(f"The issuer {host} answers with more than {ANSWER_LIMIT} bytes.")
    return bytes(body)
