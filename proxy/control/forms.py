"""Forms that do something: was it sent by a page of ours, and once (S43)? Nothing else starts a sign-in (S40)."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from proxy.control.nonces import Nonces
from proxy.errors import BadRequest, CallerRefused

LARGEST = 4096
"""Bytes of a form; ours have a few hundred."""


async def form_of(request: Request, nonces: Nonces) -> dict[str, str]:
    """Return what was filled in. Raises CallerRefused unless the form was sent from a page of this very origin.

    The guard lets a POST of an allow-listed origin pass, and one without an Origin, which no browser sends: neither
    is a person who pressed a button here.
    """
    headers = request.headers
    if headers.getlist("origin") != [f"http://{headers.get('host', '')}"]:
        raise CallerRefused("Only the page itself may do that: open it in a browser and press the button there.")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise CallerRefused("Only the page itself may do that, not one of another site.")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise BadRequest("This form is sent as application/x-www-form-urlencoded.", status=415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise BadRequest("This form is larger than any of ours.", status=413)
    said = dict(parse_qsl(body.decode("utf-8", "replace")))
    if not nonces.take(said.get("nonce", "")):
        raise CallerRefused("This form has been used already, or was open for too long: load the page again.")
    return said
