"""A local request, as the exchange takes it from either client end."""

from dataclasses import dataclass, field

from proxy.headers import Fields

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

    content_length: bytes | None = field(init=False, default=None)
    """The announced length, if a body (an empty one too, where the method expects one) is to be sent on."""
    length: int = field(init=False, default=0)
    """The announced length in bytes, 0 if there is none."""
    is_chunked: bool = field(init=False, default=False)
    """Whether a chunked body is to be read and sent on.

    Never on GET and HEAD: urllib3 1.26 announces one there and sends no chunk, not even the last (H23).
    """
    has_body: bool = field(init=False)

    agent: bytes = field(init=False, default=b"-")
    """The caller's User-Agent, `-` for none."""
    traceparent: bytes = field(init=False, default=b"-")

    def __post_init__(self) -> None:
        """Read what the fields say of the request itself."""
        said = dict(self.fields)
        if len(said) != len(self.fields):  # of what stands there twice, the first counts
            said = dict(reversed(self.fields))
        self.agent = said.get(b"user-agent") or b"-"
        self.traceparent = said.get(b"traceparent") or b"-"
        self.is_chunked = b"transfer-encoding" in said and self.method not in ("GET", "HEAD")
        length = said.get(b"content-length")
        if length is not None:
            self.length = int(length)
            if self.length or self.method not in _BODILESS:
                self.content_length = b"%d" % self.length
        self.has_body = self.is_chunked or self.length > 0
