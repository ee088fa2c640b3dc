"""A strict reader of HTTP/1.1, apart from every library that the proxy is made of: RFC 9110 and 9112, and no mercy.

The upstream of the fuzzing reads with it what the proxy sends. `meant` reads with it what a caller sends, and lets
through the few liberties that the proxy takes on purpose, each of them named here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\xff]+) HTTP/(1\.[01])")
_LOOSE_REQUEST_LINE = re.compile(_REQUEST_LINE.pattern.replace(b" ", b" +"))  # RFC 9112 3 lets a reader take that
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t\x20-\x7e]*")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")

Fields = tuple[tuple[bytes, bytes], ...]


class Violation(Exception):
    """The bytes are not a message."""


class _NeedMore(Exception):
    """The message is not complete."""


@dataclass(frozen=True)
class Message:
    """One request or answer; names of fields in lower case."""

    start: tuple[bytes, ...]
    """Method, target and version of a request; the status of an answer."""
    fields: Fields
    body: bytes
    is_last: bool = False
    """Nothing behind it on this connection counts."""

    def values(self, name: bytes) -> list[bytes]:
        return [value for have, value in self.fields if have == name]


@dataclass
class Reader:
    """Takes messages off the front of `data`."""

    data: bytes = b""
    is_loose: bool = False
    """Whether to take the liberties that the proxy takes with what callers send."""

    def request(self) -> Message | None:
        """Return the next request, or None until it is complete. Raises Violation."""
        return self._taken(self._request)

    def answer(self, method: bytes) -> Message | None:
        """Return the next final answer, which is one to `method`, or None until it is complete. Raises Violation."""
        while self.data.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            self.data = self.data[25:]
        return self._taken(lambda: self._answer(method))

    def _taken(self, read: Callable[[], Message]) -> Message | None:
        before = self.data
        try:
            return read()
        except _NeedMore:
            self.data = before
            return None

    def _request(self) -> Message:
        line, fields = self._head()
        found = (_LOOSE_REQUEST_LINE if self.is_loose else _REQUEST_LINE).fullmatch(line)
        if found is None:
            raise Violation(f"request line {line[:100]!r}")
        start = (found[1], found[2], found[3])
        message = Message(start, fields, b"")
        hosts = message.values(b"host")
        if len(hosts) != 1:
            raise Violation(f"{len(hosts)} Hosts")
        codings, lengths = _framing(message)
        if codings and found[3] == b"1.0":
            raise Violation("a coding in HTTP/1.0")
        is_last = found[3] == b"1.0" or b"close" in _options(message)
        if codings and self.is_loose and found[1] in (b"GET", b"HEAD"):
            # H23: it is not waited for, and nothing behind it is read.
            return Message(start, fields, b"", is_last=True)
        body = self._chunks() if codings else self._exactly(int(lengths[0]) if lengths else 0)
        return Message(start, fields, body, is_last)

    def _answer(self, method: bytes) -> Message:
        line, fields = self._head()
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Violation(f"status line {line[:100]!r}")
        message = Message((found[1],), fields, b"")
        codings, lengths = _framing(message)
        is_last = b"close" in _options(message)
        if method == b"HEAD" or found[1] in (b"204", b"304"):
            return Message((found[1],), fields, b"", is_last)
        if codings:
            return Message((found[1],), fields, self._chunks(), is_last)
        if lengths:
            return Message((found[1],), fields, self._exactly(int(lengths[0])), is_last)
        body, self.data = self.data, b""
        return Message((found[1],), fields, body, is_last=True)

    def _head(self) -> tuple[bytes, Fields]:
        head, mark, rest = self.data.partition(b"\r\n\r\n")
        if not mark:
            raise _NeedMore
        line, *lines = head.split(b"\r\n")
        fields = []
        for one in lines:
            found = _FIELD.fullmatch(one)
            if found is None:
                raise Violation(f"field line {one[:100]!r}")
            fields.append((found[1].lower(), found[2]))
        self.data = rest
        return line, tuple(fields)

    def _exactly(self, size: int) -> bytes:
        if len(self.data) < size:
            raise _NeedMore
        body, self.data = self.data[:size], self.data[size:]
        return body

    def _line(self) -> bytes:
        line, mark, rest = self.data.partition(b"\r\n")
        if not mark:
            raise _NeedMore
        self.data = rest
        return line

    def _chunks(self) -> bytes:
        body = b""
        while True:
            line = self._line()
            found = _SIZE.fullmatch(line)
            if found is None:
                raise Violation(f"chunk size {line[:100]!r}")
            if (size := int(found[1], 16)) == 0:
                break
            body += self._exactly(size)
            if self._line():
                raise Violation("no end of a chunk")
        while trailer := self._line():
            if _FIELD.fullmatch(trailer) is None:
                raise Violation(f"trailer {trailer[:100]!r}")
        return body


def _framing(message: Message) -> tuple[list[bytes], list[bytes]]:
    codings, lengths = message.values(b"transfer-encoding"), message.values(b"content-length")
    if len(codings) + len(lengths) > 1:
        raise Violation("two framings")
    if codings and codings[0].lower() != b"chunked":
        raise Violation(f"coding {codings[0]!r}")
    if lengths and re.fullmatch(rb"[0-9]{1,18}", lengths[0]) is None:
        raise Violation(f"length {lengths[0]!r}")
    return codings, lengths


def _options(message: Message) -> set[bytes]:
    return {one.strip().lower() for value in message.values(b"connection") for one in value.split(b",")}


@dataclass(frozen=True)
class Meant:
    """What a caller's bytes say."""

    requests: tuple[Message, ...]
    is_clean: bool
    """False if something behind them is malformed or incomplete."""


def meant(raw: bytes) -> Meant:
    """Read all that a caller sent on one connection."""
    reader, found = Reader(raw, is_loose=True), list[Message]()
    while True:
        # H7; a bare LF or CR there too, which the listener's parser skips: nothing can hide in what is nothing.
        reader.data = reader.data.lstrip(b"\r\n")
        if not reader.data:
            return Meant(tuple(found), is_clean=True)
        try:
            message = reader.request()
        except Violation:
            return Meant(tuple(found), is_clean=False)
        if message is None:
            return Meant(tuple(found), is_clean=False)
        found.append(message)
        if message.is_last:
            return Meant(tuple(found), is_clean=True)
