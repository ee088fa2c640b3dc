"""Answers that hold the token which we presented: found before they reach the caller (S30).

Theory of operation. A search is fed the body as it comes, and says what may be sent of it. While it `is_holding`,
nothing may be sent, not even the head: a hit can still become an answer of ours. Short JSON and short texts are held
to their end. All other text flows: kept back is only what might be the beginning of a token, so an event that ends
with its line is never late, and a hit cuts the answer. There is no I/O in here, and nothing is unpacked.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final, Literal

from proxy.headers import Fields, values
from proxy.remembered import by_name

JSON_LIMIT = 1 << 20
"""Longest JSON that is held to its end, in bytes."""
TEXT_LIMIT = 64 << 10
"""Longest other text, of those that announce their length, that is held to its end, in bytes."""
TOTAL_LIMIT = 16 << 20
"""What all answers of the process may hold together, in bytes; what finds no room flows."""
SHORTEST = 16
"""A shorter token is not searched for: it could stand anywhere by chance, and guessing it is easier."""


class Hit(Enum):
    """What a search says of a body that holds a token."""

    HIT = "hit"


HIT: Final = Hit.HIT

_MEDIA_TYPE = re.compile(rb"\s*[^/\s;]+/[^/\s;]+\s*(?:;.*)?")
_TEXT = re.compile(
    rb"(?i)\s*(?:text/|multipart/|[^/;]*/(?:[^;]*[.+-])?"
    rb"(?:json5?|jsonl|ndjson|json-seq|xml|csv|ya?ml|javascript|ecmascript|graphql|sql|x-www-form-urlencoded)\s*(?:;|$))"
)
_JSON = re.compile(rb"(?i)\s*[^/;]*/(?:[^;]*[.+])?json\s*(?:;|$)")


class Room:
    """How much all answers hold together."""

    def __init__(self, limit: int = TOTAL_LIMIT) -> None:
        self.held = 0
        self._limit = limit

    def take(self, size: int) -> bool:
        """Return whether `size` bytes more may be held, and count them if so."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size


class Search:
    """The search through one body; `close` it whatever happens."""

    def __init__(self, tokens: Sequence[bytes], *, hold_limit: int, room: Room) -> None:
        self.is_holding = hold_limit > 0
        self._tokens = tokens
        self._longest = max(map(len, tokens))
        self._hold_limit = hold_limit
        self._room = room
        self._held = bytearray()
        """The body so far, while holding."""
        self._taken = 0
        """How much of the room is ours."""
        self._tail = b""
        """What might begin a token, while flowing."""

    def feed(self, chunk: bytes) -> bytes | Literal[Hit.HIT]:
        """Return what may be sent now of all that was fed, or HIT."""
        if not self.is_holding:
            return self._flowed(chunk)
        seen = max(len(self._held) - self._longest + 1, 0)
        self._held += chunk
        if any(self._held.find(token, seen) >= 0 for token in self._tokens):
            return HIT
        if len(self._held) <= self._hold_limit and self._room.take(len(chunk)):
            self._taken += len(chunk)
            return b""
        return self._flowed(self._let_go())

    def end(self) -> bytes:
        """Return the rest of a body that came whole: what has not become a token is none."""
        rest = self._let_go() if self.is_holding else self._tail
        self._tail = b""
        return rest

    def close(self) -> None:
        """Free what is held; harmless if nothing is."""
        self.end()

    def _let_go(self) -> bytes:
        body = bytes(self._held)
        self._room.give_back(self._taken)
        self.is_holding, self._held, self._taken = False, bytearray(), 0
        return body

    def _flowed(self, chunk: bytes) -> bytes | Literal[Hit.HIT]:
        data = self._tail + chunk if self._tail else chunk
        if any(token in data for token in self._tokens):
            return HIT
        kept = self._kept(data)
        self._tail = data[len(data) - kept :]
        return data[: len(data) - kept]

    def _kept(self, data: bytes) -> int:
        return max(_beginning_at_end(data, token) for token in self._tokens)


class Unsearched:
    """Stands where nothing is searched for: everything may be sent at once."""

    is_holding: Final = False

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def end(self) -> bytes:
        return b""

    def close(self) -> None: ...


UNSEARCHED = Unsearched()


def search(fields: Fields, tokens: Sequence[bytes], room: Room) -> Search | Unsearched:
    """Return a search for `tokens` through the body behind `fields` (names in lower case).

    A body that is compressed, binary, or shorter than each of `tokens` goes unsearched.
    """
    said = dict(fields)
    media_type, coding = said.get(b"content-type"), said.get(b"content-encoding")
    if len(said) != len(fields):  # something stands there twice
        types = values(fields, b"content-type")
        media_type = types[0] if len(types) == 1 else None  # of two nobody knows which one counts
        coding = next(filter(_is_coded, values(fields, b"content-encoding")), None)
    announced = said.get(b"content-length")
    length = None if announced is None else int(announced)
    kind = _Kind.TEXT if media_type is None else _kind[media_type]
    if (
        not tokens
        or kind is _Kind.BINARY
        or (coding is not None and _is_coded(coding))
        or (length is not None and length < min(map(len, tokens)))
    ):
        return UNSEARCHED
    limit = JSON_LIMIT if kind is _Kind.JSON else 0 if length is None else TEXT_LIMIT
    return Search(tokens, hold_limit=limit if (length or 0) <= limit else 0, room=room)


def _is_coded(coding: bytes) -> bool:
    return coding.strip().lower() != b"identity"


def is_in(fields: Fields, tokens: Sequence[bytes]) -> bool:
    """Return whether a field's value holds one of `tokens`."""
    said = b"\n".join([value for _, value in fields])
    for token in tokens:  # noqa: SIM110 - one, mostly: a generator would cost more than the search
        if token in said:
            return True
    return False


def searchable(token: bytes) -> tuple[bytes, ...]:
    """Return the token if it is long enough to be searched for, else nothing."""
    return (token,) if len(token) >= SHORTEST else ()


class _Kind(Enum):
    JSON = "json"
    TEXT = "text"
    BINARY = "binary"


@by_name
def _kind(content_type: bytes) -> _Kind:
    types = content_type.split(b",")
    if len(types) == 1 and _JSON.match(types[0]):
        return _Kind.JSON
    is_binary = all(_MEDIA_TYPE.fullmatch(one) and not _TEXT.match(one) for one in types)
    return _Kind.BINARY if is_binary else _Kind.TEXT


def _beginning_at_end(data: bytes, token: bytes) -> int:
    """Return the length of the longest end of `data` with which `token` begins, less than the whole token."""
    at = data.find(token[:4], max(len(data) - len(token) + 1, 0))  # of four bytes there are not many
    while at >= 0:
        if token.startswith(data[at:]):
            return len(data) - at
        at = data.find(token[:4], at + 1)
    return next((size for size in (3, 2, 1) if data.endswith(token[:size])), 0)
