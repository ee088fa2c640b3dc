"""httpx2's pool of connections, with one thing put right."""

import httpx2


class Pool(httpx2.AsyncHTTPTransport):
    """Tells a connection that is reset as soon as it is made as what it is, under uvloop too.

    There it has no socket any more when anyio asks for the peer's name, and the failure comes as an AttributeError, as
    if it were a defect. Overloaded servers and restarting load balancers reset like that.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            if error.obj is None and error.name == "getpeername":
                raise httpx2.ReadError("the connection was reset", request=request) from error
            raise
