"""Whom a 401 blames: the token, or the person's permissions. Pure."""

import json
import zlib

PEEK_LIMIT = 64 * 1024
"""How much of a 401's body is read to learn whether it blames the token, in bytes."""


def blames_token(body: bytes, coding: bytes | None, token_fault: str) -> bool:
    """Return whether a 401 with the beginning `body`, content coding `coding`, is about the token.

    `token_fault` is the JSON `detail` that says so; what cannot be read, or has no `detail`, blames the token as well.
    """
    try:
        said = json.loads(_decoded(body, coding))
    except (ValueError, RecursionError, zlib.error):  # RecursionError: JSON that is nested without end
        return True
    detail = said.get("detail") if isinstance(said, dict) else None
    return detail is None or detail == token_fault


def _decoded(body: bytes, coding: bytes | None) -> bytes:
    """Return a copy of `body` to look into, at most PEEK_LIMIT bytes of it; what is relayed stays as it came."""
    if coding is None or coding.lower() not in (b"gzip", b"deflate"):
        return body
    return zlib.decompressobj(wbits=47).decompress(body, PEEK_LIMIT)  # 47: gzip or zlib, by its head
