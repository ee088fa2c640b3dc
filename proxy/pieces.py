"""Cuts what a connection brings into pieces, none of which runs past the end of a message.

Theory of operation. A parser that is given a whole read (256 KiB) hands out every request in it at once: ten thousand
small ones, each with its task to be. Given pieces that end where a message may end, it can be left alone until the
request it just handed out is served, and what stands behind that waits as bytes. A head ends with CRLF CRLF (RFC 9112
2.1), a body with a length by that length, a chunked one with the CRLF CRLF of its last chunk or of its trailers (7.1).
The same four bytes inside a chunk only make one more piece: the parser alone says where a message ends.
"""

_END = b"\r\n\r\n"
LONGEST = 16 * 1024
"""Most bytes of a piece of a head: what is too large is noticed soon behind its limit."""


class Pieces:
    """Where the pieces of one connection end. It begins at a head."""

    def __init__(self) -> None:
        self._left = 0
        self._is_chunked = False
        self._tail = b""

    def begin_head(self) -> None:
        """Say that a message has ended."""
        self._left, self._is_chunked, self._tail = 0, False, b""

    def begin_body(self, length: int) -> None:
        """Say that a body of `length` bytes comes next."""
        self._left = length

    def begin_chunks(self) -> None:
        """Say that a chunked body comes next."""
        self._is_chunked = True

    def end(self, data: bytes, start: int) -> int:
        """Return where the piece of `data` that begins at `start` ends; the caller takes it and asks again."""
        if self._left:
            end = min(len(data), start + self._left)
            self._left -= end - start
            return end
        longest = len(data) if self._is_chunked else min(len(data), start + LONGEST)
        if self._tail:  # an end may have begun in the piece before
            found = (self._tail + data[start : start + 3]).find(_END)
            if found >= 0:
                end = start + found + len(_END) - len(self._tail)
                self._tail = b""
                return end
        found = data.find(_END, start, longest)
        if found >= 0:
            self._tail = b""
            return found + len(_END)
        self._tail = (self._tail + data[max(start, longest - 3) : longest])[-3:]
        return longest
