"""The HTTP face of one deployment's datasets: GET and HEAD below its mount.

It stands behind the guard, as everything does. What fails before the head of an answer is raised as a ProxyError for
the forwarder to answer; what fails after it breaks the connection.
"""

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

from proxy.asgi import Send
from proxy.clock import Clock
from proxy.datasets import lists
from proxy.datasets.answers import conditions, disposition, for_caller
from proxy.datasets.data_api import Json
from proxy.datasets.download import Changed, total
from proxy.datasets.library import Library
from proxy.datasets.pages import Pages
from proxy.datasets.routes import Archive, File, Listing, Search, parameters, route
from proxy.datasets.s3 import Entry
from proxy.datasets.sending import FORM_TYPES, Answer
from proxy.datasets.zips import zipped
from proxy.errors import BadRequest, BrokenOff, NotAllowed, NotFound, ProxyError, defect
from proxy.events import Emit, Failed
from proxy.headers import Fields, values
from proxy.request import Request
from proxy.upstreams import Upstream

METHODS = ("GET", "HEAD")
FOUND_PAGE = 10


class Face:
    """Answers what is asked for below `mount`."""

    def __init__(
        self,
        mount: str,
        library: Library,
        pages: Pages,
        *,
        upstream: Upstream,
        name: str,
        clock: Clock,
        emit: Emit,
    ) -> None:
        """`name` is that of the deployment; the limits of `upstream`, its data store, count here too."""
        self.mount = mount.encode("ascii")
        """Path of the face, such as `/provena/datasets`."""
        self.upstream = upstream
        self.library = library
        self._pages = pages
        self._name = name
        self._clock = clock
        self._emit = emit

    async def __call__(self, request: Request, path: bytes, query: bytes, send: Send, *, extra: Fields) -> None:
        """Answer `request`, whose raw path below the mount and query are given; `extra` fields join the answer.

        Raises a ProxyError before anything was sent, BrokenOff after. The listener cancels it when the caller hangs up.
        """
        if request.method not in METHODS:
            raise NotAllowed(f"{request.method} is not possible on datasets; they are read.", allow=", ".join(METHODS))
        answer = Answer(request, send, extra)
        started = self._clock.boot()
        try:
            await self._route(request, answer, path, query)
        except ProxyError as error:
            if answer.status:
                raise BrokenOff(f"the answer broke off after {answer.sent} bytes") from error
            raise
        except BrokenOff:
            raise
        except Exception as error:
            if answer.status:
                self._emit(Failed("datasets", defect(error)))
                raise BrokenOff("the answer failed") from error
            raise
        finally:
            if answer.status:
                self._emit(answer.outcome(self._name, self._clock.boot() - started))

    async def _route(self, request: Request, answer: Answer, path: bytes, query: bytes) -> None:
        asked = dict(parameters(query))
        here = (request.local_origin + self.mount).decode("latin-1")
        match route(path, query):
            case Search():
                await self._search(request, answer, asked, here)
            case Listing() as listing:
                await self._list(request, answer, listing, asked, here)
            case File() as file:
                await self._file(request, answer, file)
            case Archive() as archive:
                await self._archive(request, answer, archive)

    async def _search(self, request: Request, answer: Answer, asked: dict[str, str], here: str) -> None:
        form = form_of(asked, request.fields)
        text = asked.get("query", "").strip()[:500]
        following: str | None = None
        if text:
            start = (lists.page_number(asked) - 1) * FOUND_PAGE
            handles = await self.library.found(text)
            datasets = await self.library.records(handles[start : start + FOUND_PAGE])
            if len(handles) > start + FOUND_PAGE:
                following = f"{here}/?" + urlencode({"query": text, "page": start // FOUND_PAGE + 2})
        else:
            datasets, key = await self.library.all(50, _key(asked.get("after", "")))
            following = None if key is None else f"{here}/?" + urlencode({"after": _opaque(key)})
        if following is not None and form != "html":
            following += f"&format={form}"
        match form:
            case "json":
                body = lists.datasets_json(datasets, here, following)
            case "csv":
                body = lists.datasets_csv(datasets, here)
            case _:
                body = self._pages.found(datasets, text, following, here, self._name).encode()
        await answer.page(form, body)

    async def _list(self, request: Request, answer: Answer, listing: Listing, asked: dict[str, str], here: str) -> None:
        form = form_of(asked, request.fields)
        dataset = await self.library.dataset(listing.handle)
        entries = lists.below(await self.library.files(listing.handle), listing.folder)
        if listing.folder and not entries:
            raise NotFound(f"Dataset {listing.handle} has no folder {listing.folder!r}; upper and lower case matter.")
        view = lists.View.of(asked)
        match form:
            case "json":
                body = lists.files_json(dataset, view.chosen(entries), here)
            case "csv":
                body = lists.files_csv(dataset, view.chosen(entries), here)
            case _:
                body = self._pages.dataset(dataset, listing.folder, entries, view, here).encode()
        await answer.page(form, body)

    async def _file(self, request: Request, answer: Answer, file: File) -> None:
        download = self.library.file(file.handle, file.path)
        is_head = request.method == "HEAD"
        wanted, instead = conditions(request.fields, request.method)
        try:
            # A link that was signed for GET does not open a HEAD, so one byte is asked for; an empty file has none.
            reading = await download.open([*wanted, (b"range", b"bytes=0-0")] if is_head else wanted, instead)
            status = reading.status
            if is_head and status == 416:
                await download.aclose()
                reading = await download.open(wanted)
                status = reading.status
            fields = for_caller(reading.fields, file.path)
            if is_head and status == 206:
                size = total(reading.fields)
                status = 200
                fields = [one for one in fields if one[0] not in (b"content-length", b"content-range")]
                fields += [(b"content-length", b"%d" % size)] if size is not None else []
            if is_head or status not in (200, 206):
                await answer.empty(status, fields, keeps_length=is_head and status == 200)
                return
            await answer.start(status, fields)
            await answer.stream(download.chunks())
        finally:
            await download.aclose()

    async def _archive(self, request: Request, answer: Answer, archive: Archive) -> None:
        entries = lists.below(await self.library.files(archive.handle, is_fresh=True), archive.folder)
        if not entries:
            raise NotFound(f"Dataset {archive.handle} has no file at this place; upper and lower case matter.")
        inner = archive.folder.rstrip("/").rpartition("/")[2]
        name = f"{str(archive.handle).replace('/', '-')}{'-' + inner if inner else ''}.zip"
        fields: Fields = [
            (b"content-type", b"application/zip"),
            (b"content-disposition", disposition(name, is_attachment=True)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if request.method == "HEAD":
            await answer.empty(200, fields)
            return

        async def read(entry: Entry) -> AsyncGenerator[bytes, None]:
            download = self.library.listed_file(archive.handle, entry.path)
            try:
                reading = await download.open([(b"if-match", entry.etag.encode("latin-1"))] if entry.etag else [])
                if reading.status != 200:
                    raise Changed(f"{entry.path} has changed while the ZIP was being written")
                async for chunk in download.chunks():
                    yield chunk
            finally:
                await download.aclose()

        # Nothing is sent before the first file is open, so that what is wrong with all of them has an answer.
        async with aclosing(zipped(entries, read, f"Dataset {archive.handle}")) as chunks:
            head = await anext(chunks)
            await answer.start(200, fields)
            await answer.stream(chunks, head)


def form_of(asked: dict[str, str], fields: Fields) -> str:
    """Return `html`, `json` or `csv`: what the query says, else what Accept names first; JSON if it names none.

    `*/*` is JSON: programs say it, browsers name text/html. Raises BadRequest for a form that there is none of.
    """
    said = asked.get("format")
    if said is not None:
        if said not in FORM_TYPES:
            raise BadRequest("format is html, json, csv or, of a dataset or a folder, zip.")
        return said
    accept = b",".join(values(fields, b"accept")).decode("latin-1").lower()
    for one in accept.split(","):
        media_type = one.partition(";")[0].strip()
        if media_type in ("text/html", "application/xhtml+xml"):
            return "html"
        if media_type == "text/csv":
            return "csv"
        if media_type == "application/json":
            return "json"
    return "json"


def _opaque(key: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _key(text: str) -> Json | None:
    """Return the service's own key of a page, as `_opaque` wrote it. Raises BadRequest."""
    if not text:
        return None
    try:
        key: Any = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    if not isinstance(key, dict):
        raise BadRequest("after= is what a page before this one gave for it.")
    return key
