"""A local request, as the exchange takes it from either client end."""

from dataclasses import dataclass

from proxy.headers import Fields, first

_BODILESS = ("GET", "HEAD", "DELETE")
"""Methods whose `Content-Length: 0` says nothing that the upstream has to hear."""


@dataclass(slots=True)
class Request:
    """A local request as it arrived, its body still to be received."""

    method: str
    target: bytes
    """Raw request target in origin-form."""
    fields: Fields
    local_origin: bytes
    """`http://authority` as the caller wrote it, already let in by the guard; `https` in applications that have TLS."""
    peer: str = "-"
    """The caller's address, `-` on a unix socket."""

    @property
    def content_length(self) -> bytes | None:
        """The announced length, if a body (an empty one too, where the method expects one) is to be sent on."""
        length = first(self.fields, b"content-length")
        if length is None or (int(length) == 0 and self.method in _BODILESS):
            return None
        return b"%d" % int(length)

    @property
    def length(self) -> int:
        """The announced length in bytes, 0 if there is none."""
        return int(self.content_length or 0)

    @property
    def is_chunked(self) -> bool:
        """Whether a chunked body is to be read and sent on.

        Never on GET and HEAD: urllib3 1.26 announces one there and sends no chunk, not even the last (H23).
        """
        return first(self.fields, b"transfer-encoding") is not None and self.method not in ("GET", "HEAD")

    @property
    def has_body(self) -> bool:
        return self.is_chunked or self.length > 0
