"""Our own pages where several workers serve them: browsers reach any of the workers, with each request another."""

from proxy.asgi import ASGIApp, Receive, Scope, Send
from proxy.errors import NotImplementedHere


class SharedPages:
    """The control plane of one worker of several."""

    def __init__(self, pages: ASGIApp) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises NotImplementedHere for a sign-in, which one process alone would know of."""
        if scope["path"].startswith(("/-/login", "/-/callback")):
            raise NotImplementedHere("Several workers serve here, so sign in by the command: bearerproxy login.")
        await self._pages(scope, receive, send)
