"""The calls to Provena that datasets need, with our token, and its refusals in the words of people who read data.

Provena says 401 for a missing permission and 400 for what does not exist; scripts that read a file need 403 and 404.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from proxy.datasets.handles import Handle
from proxy.datasets.records import Dataset, dataset_of, person_of, word
from proxy.datasets.sigv4 import Credentials
from proxy.errors import (
    IdentityMisconfigured,
    NotFound,
    NotPermitted,
    NoUpstream,
    Overloaded,
    ProxyError,
    UpstreamInvalid,
    UpstreamTimeout,
)
from proxy.exchange import Source
from proxy.headers import Fields, first, for_upstream
from proxy.tokens import TokenSet
from proxy.transport.connections import Connections, Disconnected
from proxy.upstreams import Match, Upstream

CALL_SECONDS = 60.0
"""API Gateway gives up after 29; a renewal of the token may come before."""
ANSWER_LIMIT = 16 << 20
_JSON: Fields = [(b"accept", b"application/json"), (b"content-type", b"application/json")]

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Service:
    """One of the deployment's APIs."""

    upstream: Upstream
    connections: Connections


class DataApi:
    """Calls the data store as one identity; `search` and `registry` where the deployment has them."""

    def __init__(
        self,
        data: Service,
        source: Source,
        *,
        search: Service | None = None,
        registry: Service | None = None,
        pseudonym: bytes,
    ) -> None:
        self._data = data
        self._search = search
        self._registry = registry
        self._source = source
        self._pseudonym = pseudonym

    async def dataset(self, handle: Handle) -> Dataset:
        """Return the dataset's record.

        Raises NotFound, NotPermitted, UpstreamInvalid if its files are not where its handle says, and what `_call`
        raises.
        """
        target = "/registry/items/fetch-dataset?" + urlencode({"handle_id": str(handle)})
        answer = await self._about(handle, self._data, "GET", target)
        item = answer.get("item")
        if not isinstance(item, dict):
            raise NotFound(f"There is no dataset {handle}.")
        place = item.get("s3")
        folder = word(place, "path") if isinstance(place, dict) else ""
        if folder and folder.rstrip("/") != handle.folder.rstrip("/"):
            raise UpstreamInvalid(f"The data store keeps dataset {handle} where its handle does not lead to.")
        return dataset_of(item, handle)

    async def presigned(self, handle: Handle, path: str, seconds: int) -> str:
        """Return a URL that reads one file for `seconds`. Raises NotFound, NotPermitted, and what `_call` raises."""
        asked = {"dataset_id": str(handle), "file_path": path, "expires_in": seconds}
        answer = await self._about(handle, self._data, "POST", "/registry/items/generate-presigned-url", asked, path)
        return _text(answer, "presigned_url")

    async def credentials(self, handle: Handle, *, may_write: bool = False) -> Credentials:
        """Return keys that read the dataset's files, or write them too.

        Raises NotFound, NotPermitted, and what `_call` raises.
        """
        kind = "write" if may_write else "read"
        target = f"/registry/credentials/generate-{kind}-access-credentials"
        asked = {"dataset_id": str(handle), "console_session_required": False}
        told = (await self._about(handle, self._data, "POST", target, asked)).get("credentials")
        if not isinstance(told, dict):
            raise UpstreamInvalid("The data store gave no credentials for this dataset.")
        try:
            expiry = datetime.fromisoformat(_text(told, "expiry"))
        except ValueError as error:
            raise UpstreamInvalid("The data store gave credentials without an end.") from error
        expiry = expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)
        return Credentials(
            _text(told, "aws_access_key_id"),
            _text(told, "aws_secret_access_key"),
            _text(told, "aws_session_token"),
            expiry,
        )

    async def listed(self, size: int, key: Json | None) -> tuple[list[Dataset], Json | None]:
        """Return a page of all datasets, and the key of the next page."""
        answer = await self._call(
            self._data, "POST", "/registry/items/list", {"page_size": size, "pagination_key": key}
        )
        items = [one for one in answer.get("items") or [] if isinstance(one, dict)]
        following = answer.get("pagination_key")
        return [*_datasets(items)], following if isinstance(following, dict) else None

    async def found(self, text: str, limit: int) -> list[Handle]:
        """Return the handles of the datasets that fit best, at most `limit` (50 is the service's own)."""
        if self._search is None:
            raise NoUpstream("Searching needs the search service: set search of the [provena] table.")
        asked = urlencode({"query": text, "subtype_filter": "DATASET", "record_limit": limit})
        answer = await self._call(self._search, "GET", f"/search/entity-registry?{asked}")
        ids = [str(one.get("id", "")) for one in answer.get("results") or [] if isinstance(one, dict)]
        return [handle for one in ids if (handle := _handle(one)) is not None]

    async def _about(
        self, handle: Handle, service: Service, method: str, target: str, asked: Json | None = None, path: str = ""
    ) -> Json:
        """Call about one dataset, and name it, and whom to ask, where it is refused."""
        try:
            return await self._call(service, method, target, asked)
        except NotFound:
            what = f"Dataset {handle} has no file {path!r}" if path else f"There is no dataset {handle}"
            raise NotFound(f"{what}; upper and lower case matter.") from None
        except _Role:
            raise NotPermitted(
                "Your account may not read the data store yet: it lacks the role entity-registry-read. "
                "Request it on the service's own pages, then sign in once more."
            ) from None
        except NotPermitted:
            owner = await self._owner(handle)
            raise NotPermitted(f"You may not read dataset {handle}; ask {owner} for access.") from None

    async def _owner(self, handle: Handle) -> str:
        """Return the person to ask, as far as anybody tells it."""
        attempts = [(self._data, "/registry/items/fetch-dataset?handle_id=")]
        attempts += [(self._registry, "/registry/general/fetch?id=")] if self._registry else []
        for service, route in attempts:
            try:
                item = (await self._call(service, "GET", route + quote(str(handle)))).get("item")
            except ProxyError:
                continue  # a courtesy: the refusal itself is told in any case
            if isinstance(item, dict) and (person := person_of(item)):
                return person
        return "its owner"

    async def _call(self, service: Service, method: str, target: str, asked: Json | None = None) -> Json:
        """Return the JSON object that a route answers with.

        Raises NotFound, NotPermitted (_Role for a missing role), IdentityMisconfigured, Overloaded, UpstreamInvalid,
        UpstreamTimeout, UpstreamUnreachable, and what the token source raises.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                token = self._source.current() or await self._source.token()
                status, fields, said = await self._exchange(service, method, target, asked, token)
                if status == 401 and _detail(said) in (None, service.upstream.token_fault):
                    newer = await self._source.reject(token, upstream=service.upstream.name)
                    if newer is not None:
                        status, fields, said = await self._exchange(service, method, target, asked, newer)
        except TimeoutError as error:
            raise UpstreamTimeout(f"[upstream.{service.upstream.name}] sent no answer in time.") from error
        if status == 200 and isinstance(said, dict):
            return said
        raise _refusal(status, fields, _detail(said), service.upstream)

    async def _exchange(
        self, service: Service, method: str, target: str, asked: Json | None, token: TokenSet
    ) -> tuple[int, Fields, object]:
        """Send one request, once more if an idle connection had just been closed; all of these routes only read."""
        try:
            return await self._send(service, method, target, asked, token)
        except Disconnected:
            return await self._send(service, method, target, asked, token)

    async def _send(
        self, service: Service, method: str, target: str, asked: Json | None, token: TokenSet
    ) -> tuple[int, Fields, object]:
        path, mark, query = target.partition("?")
        match = Match(service.upstream, b"", path.encode("ascii"), (mark + query).encode("ascii"))
        body = None if asked is None else json.dumps(asked).encode()
        fields = for_upstream(
            _JSON if body is not None else _JSON[:1],
            match,
            method,
            authorization=b"Bearer " + token.access_token.encode("ascii"),
            content_length=None if body is None else b"%d" % len(body),
            is_chunked=False,
            pseudonym=self._pseudonym,
        )
        sent = None if body is None else _once(body)
        response = await service.connections.send(method, match.target, fields, sent)
        try:
            whole = bytearray()
            async for chunk in response.body:
                whole += chunk
                if len(whole) > ANSWER_LIMIT:
                    raise UpstreamInvalid(f"[upstream.{service.upstream.name}] answers with more than it should.")
        finally:
            await response.aclose()
        return response.status, response.fields, _parsed(bytes(whole))


class _Role(NotPermitted):
    """It is the role that lacks, not the permission on one dataset."""


def _refusal(status: int, fields: Fields, detail: str | None, upstream: Upstream) -> ProxyError:
    name = f"[upstream.{upstream.name}]"
    match status:
        case 401 if detail is not None and "incorrect structure" in detail:
            return IdentityMisconfigured(
                "The sign-in has no roles, so that the data store refuses it: sign in with the scope 'roles' "
                '(for automated-access: scope = "roles offline_access").',
                login=upstream.identity,
            )
        case 401 if detail is not None and "correct role" in detail:
            return _Role("")
        case 401 | 403:
            return NotPermitted("")
        case 400 | 404:
            return NotFound("")
        case 429:
            after = first(fields, b"retry-after") or b""
            return Overloaded(
                f"{name} asks for fewer calls at a time.", retry_after=int(after) if after.isdigit() else 5
            )
        case _:
            return UpstreamInvalid(f"{name} answered with the status {status}, or with something that is no JSON.")


def _datasets(items: list[Json]) -> "list[Dataset]":
    handles = [(item, _handle(str(item.get("id", "")))) for item in items]
    return [dataset_of(item, handle) for item, handle in handles if handle is not None]


def _handle(text: str) -> Handle | None:
    try:
        return Handle.parse(text)
    except ProxyError:
        return None


def _text(told: Mapping[str, Any], name: str) -> str:
    value = word(told, name)
    if not value:
        raise UpstreamInvalid(f"The data store's answer lacks {name}.")
    return value


def _detail(said: object) -> str | None:
    detail = said.get("detail") if isinstance(said, dict) else None
    return detail if isinstance(detail, str) else None


def _parsed(whole: bytes) -> object:
    try:
        parsed: object = json.loads(whole)
    except (ValueError, RecursionError):  # RecursionError: nested without end
        return None
    return parsed


async def _once(body: bytes) -> Any:  # Any: an asynchronous generator of bytes
    yield body
