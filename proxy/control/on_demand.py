"""Our own pages, imported when the first of them is asked for: many proxies relay for days and show none."""

import asyncio

from proxy.asgi import ASGIApp, Receive, Scope, Send
from proxy.control.view import ControlView


class OnDemand:
    """The ASGI application for `/` and `/-/…`, made from `view` by the first request."""

    def __init__(self, view: ControlView) -> None:
        self._view = view
        self._turn = asyncio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app or await self._first()
        await app(scope, receive, send)

    async def _first(self) -> ASGIApp:
        async with self._turn:  # two applications would not know each other's nonces
            if self._app is None:
                self._app = await asyncio.to_thread(self._made)  # what is relayed goes on meanwhile
            return self._app

    def _made(self) -> ASGIApp:
        from proxy.control.routes import control_app  # Starlette

        return control_app(self._view)
