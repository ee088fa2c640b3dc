"""A data API like Provena's data store: the routes that scripts use, its 401 texts, and its traps.

What is as upstream: the first Authorization field counts, `aud` and `iss` are not verified, a missing role or
permission is 401 and not 403, `HEAD` is 405, not found is 400, the trailing-slash redirect is absolute,
`/check-access/` hands the caller's raw token back. What is the demo's own stands below `/demo/` and `/services/`.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from proxy.clock import Clock
from proxy.demo.bearer import InvalidToken, Verifier, authorization
from proxy.demo.faults import fault_routes
from proxy.demo.mint import Claims
from proxy.demo.object_store import ObjectStore

READ_ROLE = "entity-registry-read"
WRITE_ROLE = "entity-registry-write"
SERVICES = ("registry", "prov", "search", "auth", "handle", "job")
"""Provena's other services; here each is a stub below `/services/NAME`."""

Item = dict[str, Any]  # Any: a registry item is JSON
Handler = Callable[[Request, Claims], Awaitable[Response]]

_ITEMS: list[Item] = json.loads(files("proxy.demo").joinpath("data", "registry.json").read_text("utf-8"))
_CORAL_COVER = "datasets/10378-1-1001/coral-cover.csv"
_SWAGGER = (
    "<!DOCTYPE html><html lang=en><title>FastAPI - Swagger UI</title>"
    "<p>The document is at <a href=/openapi.json>/openapi.json</a>.</p></html>"
)


class ProvenaDataApi:
    """The data API, an ASGI application."""

    def __init__(
        self,
        issuer: str,
        *,
        clock: Clock,
        storage_url: str = "",
        audience: str | None = None,
        faults: bool = False,
    ) -> None:
        """`issuer` is the realm's URL; `audience` None leaves `aud` unverified, as upstream.

        `storage_url` is the origin at which `store` answers. `faults` adds `/demo/bytes/{n}` and `/demo/broken/{n}`
        (faults.py).
        """
        self._verifier = Verifier(issuer, clock=clock, audience=audience, checks_issuer=False)
        self.store = ObjectStore(clock, _ITEMS)
        """The dataset files; an application of its own, since upstream's are elsewhere too."""
        self.key_seconds = 8 * 3600.0
        """Life of the credentials that are given out."""
        self.calls: Counter[str] = Counter()
        """How often each route below `/registry/` was asked for."""
        self._storage_url = storage_url
        self._app = Starlette(routes=self._routes(faults=faults), exception_handlers={HTTPException: _detail})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _routes(self, *, faults: bool) -> list[BaseRoute]:
        items, keys = "/registry/items", "/registry/credentials"
        routes: list[BaseRoute] = [
            _Get("/", _health),
            _Get("/docs", _docs),
            _Get("/openapi.json", self._openapi),
            _Get(f"{items}/fetch-dataset", self._for(READ_ROLE, self._fetch)),
            Route(f"{items}/list", self._for(READ_ROLE, self._list), methods=["POST"]),
            Route(f"{items}/generate-presigned-url", self._for(READ_ROLE, self._presign), methods=["POST"]),
            Route(f"{keys}/generate-read-access-credentials", self._for(READ_ROLE, self._keys), methods=["POST"]),
            Route(f"{keys}/generate-write-access-credentials", self._for(WRITE_ROLE, self._keys), methods=["POST"]),
            _Get("/check-access/check-general-access", self._for(None, self._access)),
            _Get("/check-access/check-read-access", self._for(READ_ROLE, self._access)),
            _Get("/check-access/check-write-access", self._for(WRITE_ROLE, self._access)),
            Route("/demo/coral-cover.csv", self._for(READ_ROLE, self._coral_cover)),
            Mount("/services", routes=[self._service(name) for name in SERVICES]),
        ]
        return [*routes, *(fault_routes() if faults else [])]

    def _for(self, role: str | None, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that lets only people with `role` in (None: any role)."""

        async def endpoint(request: Request) -> Response:
            self.calls[request.url.path] += 1
            return await handler(request, await self._claims(request, role))

        return endpoint

    async def _claims(self, request: Request, role: str | None) -> Claims:
        """Return the claims of the caller's token. Raises HTTPException with Provena's words."""
        presented = authorization(request.scope["headers"])
        if presented is None or presented[0] != "bearer" or not presented[1]:
            raise _unauthorised("Not authenticated")
        try:
            claims = await self._verifier.verify(presented[1])
        except InvalidToken:
            raise _unauthorised("Could not validate credentials") from None
        if "realm_access" not in claims:
            raise _unauthorised("Token had incorrect structure.")
        if role is not None and role not in claims["realm_access"]["roles"]:
            raise _unauthorised("You are not authorised to access this resource as you don't have the correct role.")
        return {**claims, "access_token": presented[1]}

    async def _fetch(self, request: Request, claims: Claims) -> Response:
        item = _readable(request.query_params.get("handle_id", ""), claims)
        status = {"success": True, "details": f"Successfully fetched dataset {item['id']}."}
        roles = ["metadata-read", "dataset-data-read"]
        return JSONResponse({"status": status, "item": _public(item), "roles": roles, "locked": False})

    async def _list(self, request: Request, _: Claims) -> Response:
        """Pages travel in the body: `page_size` and the `pagination_key` of the page before."""
        asked = await _json(request)
        size = asked.get("page_size", 20)
        key = asked.get("pagination_key")
        if not isinstance(size, int) or size < 1:
            raise HTTPException(422, "page_size must be a positive integer")
        ids = [item["id"] for item in _ITEMS]
        if key is not None and (not isinstance(key, dict) or key.get("id") not in ids):
            raise HTTPException(400, "The pagination key is not one of this list.")
        start = 0 if key is None else ids.index(key["id"]) + 1
        shown = _ITEMS[start : start + size]
        is_last = start + size >= len(_ITEMS)
        return JSONResponse(
            {
                "status": {"success": True, "details": "Successfully listed."},
                "items": [_public(item) for item in shown],
                "total_item_count": len(shown),
                "pagination_key": None if is_last else {"id": shown[-1]["id"], "item_subtype": "DATASET"},
                "not_filtered_count": len(_ITEMS),
            }
        )

    async def _presign(self, request: Request, claims: Claims) -> Response:
        asked = await _json(request)
        item = _readable(str(asked.get("dataset_id", "")), claims)
        path = str(asked.get("file_path", ""))
        seconds = asked.get("expires_in", 10_800)
        if not isinstance(seconds, int) or not 1 <= seconds <= 86_400:
            raise HTTPException(422, "expires_in must be between 1 and 86400")
        if ".." in path or "//" in path or "\\" in path:
            raise HTTPException(400, f"The path {path} is not allowed.")
        if not self.store.holds(item["s3"]["path"] + path):
            raise HTTPException(400, f"The file {path} does not exist in dataset {item['id']}.")
        url = f"{self._storage_url}/{self.store.presign(item['s3']['path'] + path, seconds)}"
        return JSONResponse({"dataset_id": item["id"], "file_path": path, "presigned_url": url})

    async def _keys(self, request: Request, claims: Claims) -> Response:
        """Return AWS keys for the dataset's files, as upstream's routes do; the console's link is left out."""
        asked = await _json(request)
        item = _readable(str(asked.get("dataset_id", "")), claims)
        keys = self.store.keys(item["s3"]["path"], self.key_seconds)
        credentials = {
            "aws_access_key_id": keys.access_key_id,
            "aws_secret_access_key": keys.secret_access_key,
            "aws_session_token": keys.session_token,
            "expiry": datetime.fromtimestamp(keys.ends_at, UTC).isoformat(),
        }
        status = {"success": True, "details": "Credentials generated successfully."}
        return JSONResponse({"status": status, "credentials": credentials, "console_session_url": None})

    async def _access(self, _: Request, claims: Claims) -> Response:
        """Return the caller, raw token included: upstream really does this, which is why a proxy must deny it."""
        return JSONResponse(
            {
                "username": claims["preferred_username"],
                "email": claims.get("email"),
                "roles": claims["realm_access"]["roles"],
                "access_token": claims["access_token"],
            }
        )

    async def _coral_cover(self, _: Request, __: Claims) -> Response:
        """Return a dataset as a plain URL: the demo's own, for a tool that knows only a base URL."""
        return Response(self.store.content(_CORAL_COVER), media_type="text/csv; charset=utf-8")

    async def _openapi(self, _: Request) -> Response:
        paths: dict[str, Item] = {route.path: {} for route in self._app.routes if isinstance(route, Route)}
        return JSONResponse({"openapi": "3.0.2", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths})

    def _service(self, name: str) -> Mount:
        routes: list[BaseRoute] = [_Get("/", _health), _Get("/check-access/public", _health)]
        if name == "registry":
            listing = self._for(READ_ROLE, self._list)
            routes.append(Route("/registry/general/list", listing, methods=["POST"]))
            routes.append(_Get("/registry/general/fetch", self._for(READ_ROLE, _fetch_general)))
        if name == "search":
            routes.append(_Get("/search/entity-registry", self._for(READ_ROLE, _search)))
        return Mount(f"/{name}", routes=routes)


class _Get(Route):
    """A route without HEAD: FastAPI answers that with 405, Starlette would add it."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, endpoint, methods=["GET"])
        self.methods = {"GET"}


async def _health(_: Request) -> Response:
    return JSONResponse({"message": "Health check successful."})


async def _docs(_: Request) -> Response:
    return HTMLResponse(_SWAGGER)


async def _fetch_general(request: Request, _: Claims) -> Response:
    """Not found is 200 with `success: false`, as the registry has it."""
    handle = request.query_params.get("id", "")
    item = next((one for one in _ITEMS if one["id"] == handle), None)
    details = f"Successfully fetched {handle}." if item else f"Could not find an item with the id {handle}."
    status = {"success": item is not None, "details": details}
    return JSONResponse({"status": status, "item": _public(item) if item else None, "item_is_seed": False})


async def _search(request: Request, _: Claims) -> Response:
    words = request.query_params.get("query", "").lower().split()
    texts = {item["id"]: json.dumps(_public(item)).lower() for item in _ITEMS}
    scores = {handle: sum(text.count(word) for word in words) for handle, text in texts.items()}
    found = [{"id": handle, "score": float(score)} for handle, score in scores.items() if score]
    found.sort(key=lambda one: -float(one["score"]))
    asked = request.query_params.get("record_limit", "10")
    limit = min(int(asked), 50) if asked.isdecimal() else 10
    status = {"success": True, "details": "Successful search."}
    return JSONResponse({"status": status, "results": found[:limit], "warnings": None})


def _readable(handle: str, claims: Claims) -> Item:
    """Return the item with this handle. Raises HTTPException: 400 if there is none, 401 if it may not be read."""
    item = next((one for one in _ITEMS if one["id"] == handle), None)
    if item is None:
        raise HTTPException(400, f"Could not find an item with the handle {handle}.")
    readers = item.get("readers")
    if readers is not None and claims["preferred_username"] not in readers:
        # raised in the route, so without WWW-Authenticate
        raise HTTPException(401, "You do not have sufficient permissions to read from this dataset!")
    return item


def _public(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "readers"}


async def _json(request: Request) -> Item:
    try:
        said = json.loads(await request.body() or b"{}")
    except ValueError:
        raise HTTPException(422, "The body is not JSON.") from None
    if not isinstance(said, dict):
        raise HTTPException(422, "The body is not a JSON object.")
    return said


def _unauthorised(detail: str) -> HTTPException:
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


async def _detail(_: Request, exc: Exception) -> Response:
    """Return an error the way FastAPI shapes it."""
    if not isinstance(exc, HTTPException):
        raise exc
    detail: object = exc.detail
    if exc.status_code == 422:
        detail = [{"loc": ["body"], "msg": exc.detail, "type": "value_error"}]
    return JSONResponse({"detail": detail}, exc.status_code, exc.headers)
