"""A person signs in with the browser of this machine (RFC 8252, with PKCE).

The issuer sends the browser back to a listener of ours on 127.0.0.1, which lives as long as one flow. The way back is a
cross-site navigation by nature, so Sec-Fetch-Site says nothing here; `state`, random and for one use, is what tells our
flow from anybody else's (S37, S39).
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from proxy.clock import Clock
from proxy.errors import GrantRefused
from proxy.grants.pkce import Proof
from proxy.identities import Identity
from proxy.issuer import Issuer, for_people
from proxy.tasks import Tasks
from proxy.tokens import TokenSet

PATH = "/callback"
HEAD_LIMIT = 32 * 1024
HEAD_SECONDS = 10.0

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>bearerproxy</title>
<style>body{{font:1.2rem system-ui;margin:20vh auto;max-width:30rem;text-align:center}}</style>
<p>{}</p></html>
"""
_NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
SIGNED_IN = "You are signed in. You may close this page."
FAILED = "The sign-in did not succeed. The terminal says why; you may close this page."
UNKNOWN = "This page belongs to a sign-in that is not under way here. You may close it."


@dataclass(frozen=True, slots=True)
class Callback:
    """What came back for our flow."""

    code: str | None
    error: str | None
    description: str
    issuer: str | None


class BadCallback(Exception):
    """A request that is not our flow's; answered with `status` and otherwise ignored."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


async def sign_in(
    issuer: Issuer,
    identity: Identity,
    *,
    open_url: Callable[[str], None],
    clock: Clock,
    timeout_seconds: float = 300.0,
) -> TokenSet:
    """Have `open_url` show the issuer's page, wait for the browser to come back, return the new set.

    `open_url` returns at once. Raises GrantRefused if the person or the issuer declines, if the answer is another
    issuer's, and after `timeout_seconds`; else what `Issuer.token_request` raises. Nothing is listening afterwards.
    """
    endpoint = await issuer.endpoint("authorization")
    proof, state = Proof(), secrets.token_urlsafe(32)
    async with Listener(state) as listener:
        asked = [
            ("response_type", "code"),
            ("client_id", identity.client_id),
            ("redirect_uri", listener.uri),
            *([("scope", identity.scope)] if identity.scope else []),
            ("state", state),
            *proof.challenge,
            *identity.extra,
        ]
        open_url(f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}")
        callback = await _wait_for(listener.callback, clock, timeout_seconds)
        code = _code(callback, issuer, identity)
        spent = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", listener.uri),
            ("code_verifier", proof.verifier),
        ]
        token_set = await issuer.token_request(spent)
        listener.succeed()
        return token_set


async def _wait_for(callback: "asyncio.Future[Callback]", clock: Clock, seconds: float) -> Callback:
    tasks = Tasks()
    bound = tasks.start(clock.sleep(seconds), name="bound of a sign-in")
    either: set[asyncio.Future[Any]] = {callback, bound}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await tasks.close()
    if not callback.done():
        raise GrantRefused("expired_token", "nobody signed in within the time there was; start again")
    return callback.result()


def _code(callback: Callback, issuer: Issuer, identity: Identity) -> str:
    """Return the code of a callback that is the right issuer's and no refusal."""
    is_promised = issuer.announced("authorization_response_iss_parameter_supported") is True
    if (callback.issuer is not None or is_promised) and callback.issuer != identity.issuer:
        # > Clients MUST then compare the extracted and URL-decoded value ... and MUST NOT proceed (RFC 9207 2.4)
        raise GrantRefused("invalid_request", "the answer came from another issuer, and nothing of it was used")
    if callback.error is not None:
        raise GrantRefused(for_people(callback.error), for_people(callback.description))
    if not callback.code:
        raise GrantRefused("invalid_request", "the answer holds no code")
    return callback.code


def read_callback(head: bytes, *, port: int, state: str) -> Callback:
    """Return what a request's `head` brings for the flow of `state`; raises BadCallback if it is not that flow's."""
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest)]
    if len(parts) != 3:
        raise BadCallback(HTTPStatus.BAD_REQUEST)
    if [value for name, value in fields if name == "host"] != [f"127.0.0.1:{port}"]:
        raise BadCallback(HTTPStatus.FORBIDDEN)  # DNS rebinding: the name in the address bar was another one
    if any(name == "origin" or (name in _NAVIGATION and value != _NAVIGATION[name]) for name, value in fields):
        raise BadCallback(HTTPStatus.FORBIDDEN)  # a page's script, form or picture, not a person's browser on its way
    path, _, query = parts[1].partition("?")
    if path != PATH:
        raise BadCallback(HTTPStatus.NOT_FOUND)
    if parts[0] != "GET":
        raise BadCallback(HTTPStatus.METHOD_NOT_ALLOWED)
    pairs = parse_qsl(query, keep_blank_values=True)
    said = dict(pairs)
    if len(said) != len(pairs):  # > parameters MUST NOT be included more than once (RFC 6749 3.1)
        raise BadCallback(HTTPStatus.BAD_REQUEST)
    if not hmac.compare_digest(said.get("state", "").encode(), state.encode()):
        raise BadCallback(HTTPStatus.BAD_REQUEST)
    return Callback(said.get("code"), said.get("error"), said.get("error_description", ""), said.get("iss"))


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
    """A web server for one callback: `async with` opens it on an ephemeral port and closes it."""

    def __init__(self, state: str) -> None:
        loop = asyncio.get_running_loop()
        self.callback: asyncio.Future[Callback] = loop.create_future()
        self._state = state
        self._has_succeeded: asyncio.Future[bool] = loop.create_future()
        self._owed: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._port = 0
        self._server: asyncio.Server | None = None

    @property
    def uri(self) -> str:
        """The redirect URI: an address, not `localhost`, which could be somebody else's (RFC 8252 8.3)."""
        return f"http://127.0.0.1:{self._port}{PATH}"

    def succeed(self) -> None:
        """Let the page say that it worked; without this it says that it did not."""
        self._has_succeeded.set_result(True)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        if not self._has_succeeded.done():
            self._has_succeeded.set_result(False)
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
            callback = read_callback(head, port=self._port, state=self._state)
        except BadCallback as bad:
            return page(bad.status, UNKNOWN)
        if self.callback.done():
            return page(HTTPStatus.BAD_REQUEST, UNKNOWN)  # one use: the same answer again is not ours any more
        self._owed = asyncio.current_task()
        self.callback.set_result(callback)
        return page(HTTPStatus.OK, SIGNED_IN if await self._has_succeeded else FAILED)
