"""A Provena-like deployment whose storage misbehaves on command, with files of any size made as they are read.

Signatures are not looked at here (the demo's storage does that); what counts is which link and which keys were used.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from proxy.asgi import Message, Receive, Scope, Send
from proxy.clock import SystemClock
from proxy.errors import BrokenOff
from proxy.stores import open_store
from proxy.tokens import TokenSet
from tests.journeys.house import Running, serving

HANDLE = "10378.1/77"
FOLDER = "datasets/10378-1-77/"
BUCKET = "store"
PIECE = 1 << 16
WRITTEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
_NOISE = hashlib.sha512(b"noise").digest() * 1024  # 64 KiB


@dataclass
class File:
    """One file: given content, or as many bytes of noise as `size` says."""

    content: bytes | None = None
    size: int = 0
    version: int = 1
    has_md5: bool = True

    def __post_init__(self) -> None:
        self.size = self.size if self.content is None else len(self.content)

    def piece(self, start: int, end: int) -> bytes:
        """Return at most 64 KiB."""
        if self.content is not None:
            return self.content[start:end]
        first = start % len(_NOISE)
        return (_NOISE + _NOISE)[first : first + end - start]

    @property
    def etag(self) -> str:
        if self.content is None or not self.has_md5:
            return f'"{self.size:032x}-{self.version}"'  # as of an upload in parts: no MD5
        return '"' + hashlib.md5(self.content, usedforsecurity=False).hexdigest() + '"'


@dataclass
class Deployment:
    """What it holds, what it was asked for, and what goes wrong."""

    files: dict[str, File] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    gets: list[tuple[str, dict[bytes, bytes]]] = field(default_factory=list)
    """(path, fields) of each request that the storage got."""
    links: int = 0
    """How many links were given out; the number stands in each."""
    oldest_link: int = 0
    """Links below this number have ended."""
    keys: int = 0
    oldest_keys: int = 0
    key_seconds: float = 3600.0
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of its body each of the next answers breaks off."""
    statuses: list[int] = field(default_factory=list)
    """What the next requests to the storage are answered with instead."""
    refusals: list[tuple[int, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)
    """The same with fields and a body: (status, fields, body)."""
    on_cut: list[str] = field(default_factory=list)
    """`end links` or `change file`: what happens when an answer is cut."""
    ignores_conditions: bool = False
    data_url: str = ""
    storage_url: str = ""
    open: int = 0
    most_open: int = 0
    held: asyncio.Event | None = None
    """What answers of the storage wait for behind their head."""

    # the data API ----------------------------------------------------------------------------------------------------

    async def data(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls[scope["path"]] += 1
        asked = json.loads(await body_of(receive) or b"{}")
        match scope["path"]:
            case "/registry/items/fetch-dataset":
                item = {
                    "id": HANDLE,
                    "display_name": "A dataset",
                    "owner_username": "ada",
                    "s3": {"bucket_name": BUCKET, "path": FOLDER},
                }
                await json_answer(send, 200, {"item": item})
            case "/registry/items/generate-presigned-url":
                if asked["file_path"] not in self.files:
                    await json_answer(send, 400, {"detail": "does not exist in dataset"})
                    return
                self.links += 1
                url = (
                    f"{self.storage_url}/{BUCKET}/{FOLDER}{asked['file_path']}?Signature=canary-link&link={self.links}"
                )
                await json_answer(send, 200, {"presigned_url": url})
            case "/registry/credentials/generate-read-access-credentials":
                self.keys += 1
                ends = datetime.fromtimestamp(SystemClock().wall() + self.key_seconds, UTC)
                keys = {
                    "aws_access_key_id": f"ASIA{self.keys}",
                    "aws_secret_access_key": "canary-aws-secret",
                    "aws_session_token": f"canary-session-{self.keys}",
                    "expiry": ends.isoformat(),
                }
                await json_answer(send, 200, {"credentials": keys})
            case _:
                await json_answer(send, 404, {"detail": "Not Found"})

    # the storage -----------------------------------------------------------------------------------------------------

    async def storage(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields, query = dict(scope["headers"]), dict(parse_qsl(scope["query_string"].decode()))
        path = unquote(scope["raw_path"].decode())
        self.gets.append((path, fields))
        if self.statuses:
            await answer(send, self.statuses.pop(0), [], b"")
            return
        if self.refusals:
            await answer(send, *self.refusals.pop(0))
            return
        token = query.get("X-Amz-Security-Token") or fields.get(b"x-amz-security-token", b"").decode()
        if token and int(token.rpartition("-")[2]) < self.oldest_keys:
            await answer(send, 400, [], b"<Error><Code>ExpiredToken</Code></Error>")
        elif "link" in query and int(query["link"]) < self.oldest_link:
            await answer(send, 403, [], b"<Error><Message>Request has expired</Message></Error>")
        elif query.get("list-type") == "2":
            await answer(send, 200, [], self._listing(query))
        elif (name := path.removeprefix(f"/{BUCKET}/{FOLDER}")) in self.files:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                await self._file(self.files[name], fields, send)
            finally:
                self.open -= 1
        else:
            await answer(send, 404, [], b"<Error><Code>NoSuchKey</Code></Error>")

    async def _file(self, file: File, fields: dict[bytes, bytes], send: Send) -> None:
        etag = file.etag.encode()
        if fields.get(b"if-match", etag) != etag and not self.ignores_conditions:
            await answer(send, 412, [], b"")
            return
        start, end, status = 0, file.size, 200
        head = [(b"etag", etag), (b"last-modified", b"Thu, 02 Jan 2025 03:04:05 GMT")]
        if b"range" in fields:
            first, _, last = fields[b"range"].removeprefix(b"bytes=").partition(b"-")
            start, end, status = int(first), min(int(last) + 1 if last else file.size, file.size), 206
            if start >= file.size:
                await answer(send, 416, [(b"content-range", b"bytes */%d" % file.size)], b"")
                return
            head.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, file.size)))
        head.append((b"content-length", b"%d" % (end - start)))
        cut = self.cuts.pop(0) if self.cuts else None
        await send({"type": "http.response.start", "status": status, "headers": head})
        if self.held is not None:
            await self.held.wait()
        sent = 0
        while start < end:
            piece = file.piece(start, min(start + PIECE, end))
            if cut is not None and sent + len(piece) >= cut:
                await send({"type": "http.response.body", "body": piece[: cut - sent], "more_body": True})
                self._when_cut(file)
                raise BrokenOff("cut")
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            start += len(piece)
            sent += len(piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _when_cut(self, file: File) -> None:
        if "end links" in self.on_cut:
            self.oldest_link, self.oldest_keys = self.links + 1, self.keys + 1
        if "change file" in self.on_cut:
            file.version += 1

    def _listing(self, query: dict[str, str]) -> bytes:
        after = query.get("continuation-token", "")
        keys = sorted(FOLDER + name for name in self.files)
        keys = [key for key in keys if key.startswith(query["prefix"]) and key > after]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{WRITTEN:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(self.files[key.removeprefix(FOLDER)].etag)}</ETag>"
            f"<Size>{self.files[key.removeprefix(FOLDER)].size}</Size></Contents>"
            for key in keys[:1000]
        )
        more = len(keys) > 1000
        following = f"<NextContinuationToken>{escape(keys[999])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{rows}{following}"
            "</ListBucketResult>"
        ).encode()

    def configuration(self, store: str, port: int = 0) -> str:
        """Return the file of a proxy in front of it."""
        return (
            f'[server]\nport = {port}\n[store]\nkind = "file"\npath = "{store}"\n'
            f'[datasets]\nendpoint = "{self.storage_url}"\n'
            f'[provena]\nissuer = "http://127.0.0.1:9/realm"\ndata = "{self.data_url}"\n'
        )


@asynccontextmanager
async def deployed(**files: File) -> AsyncIterator[Deployment]:
    """Run a deployment with these files."""
    there = Deployment(dict(files))
    async with serving(there.data) as data, serving(there.storage) as storage:
        there.data_url, there.storage_url = _url(data), _url(storage)
        yield there


async def sign_in(store: str, token_set: TokenSet | None = None) -> None:
    """Keep a token where the configuration looks for it: `token_set`, or one for the next hour."""
    now = SystemClock().wall()
    made = TokenSet(
        "canary-access-token", now + 3600, now, client_id="client-tools", issuer="http://127.0.0.1:9/realm",
        grant="device_code", refresh_token="canary-refresh-token", refresh_expires_at=now + 7200, epoch=1,
    )  # fmt: skip
    kept = open_store("file", Path(store))
    await kept.save("provena", token_set or made)
    await kept.close()


def _url(there: Running) -> str:
    return f"http://127.0.0.1:{there.port}"


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def json_answer(send: Send, status: int, said: object) -> None:
    await answer(send, status, [(b"content-type", b"application/json")], json.dumps(said).encode())


async def answer(send: Send, status: int, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    head = [*fields, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
