"""What goes wrong with an upstream, in sentences for the person who has to cure it."""

import socket
import ssl

from proxy.errors import ProxyError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from proxy.transport.seam import Trouble
from proxy.upstreams import Upstream


class Disconnected(UpstreamInvalid):
    """A connection that had been idle ended before any byte of an answer: a second try may help (H63)."""


def explained(trouble: Trouble, error: BaseException | None, upstream: Upstream) -> ProxyError:  # noqa: PLR0911 - a table
    """Return the failure to answer with; the text names our upstream and no internals of its answer."""
    name = f"[upstream.{upstream.name}] ({upstream.origin})"
    match trouble:
        case Trouble.UNREACHABLE:
            return UpstreamUnreachable(f"{name} {_why_unreachable(error)}")
        case Trouble.NOT_IN_TIME:
            return UpstreamUnreachable(f"{name} does not accept connections in time.")
        case Trouble.PROXY_REFUSED:
            return UpstreamUnreachable(f"The outbound proxy refuses to connect to {name}.")
        case Trouble.NOT_TAKEN:
            return UpstreamTimeout(f"{name} stopped taking the request.")
        case Trouble.TLS_BROKEN:
            return UpstreamInvalid(f"{name} broke its TLS connection.")
        case Trouble.STALE:
            return Disconnected(f"{name} closed the connection before it answered.")
        case Trouble.CLOSED:
            return UpstreamInvalid(f"{name} closed the connection before it answered.")
        case Trouble.CUT:
            return UpstreamInvalid(f"{name} closed the connection in the middle of its answer.")
        case Trouble.INVALID:
            return UpstreamInvalid(f"{name} answered something that is not valid HTTP.")


def _why_unreachable(error: BaseException | None) -> str:
    """Return the end of a sentence about a failed connection, from the chain of causes."""
    cause = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # one for each address of the name; they fail alike
            cause = cause.exceptions[0]
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"shows a certificate that is not trusted here: {cause.verify_message}. "
                    "A private authority goes into ca_file."
                )
            case ssl.SSLError():
                return "does not speak TLS as it should; is the URL's scheme right?"
            case socket.gaierror() | UnicodeError():
                return "has a name that cannot be resolved; check its url and the network."
            case ConnectionRefusedError():
                return "refuses connections; is it running, and is its port right?"
        cause = cause.__cause__ or cause.__context__
    return "cannot be reached; check its url, the network and [network] proxy."
