"""Refusals as callers see them, in the same words at both ends, and told as events."""

from proxy.decision import is_page
from proxy.errors import KeyRequired, ProxyError
from proxy.events import Emit, Refused
from proxy.guard import Guard
from proxy.headers import Fields, first, masked_target, values
from proxy.problems import Answer, answer


class Refusals:
    """Puts failures of ours into answers."""

    def __init__(self, guard: Guard, emit: Emit, *, has_pages: bool = True) -> None:
        """`has_pages` says that the caller reaches our own pages too, so that links to them lead somewhere."""
        self._guard = guard
        self._has_pages = has_pages
        self._emit = emit

    def answer(self, error: ProxyError, method: str, target: bytes, fields: Fields) -> tuple[Answer, Fields]:
        """Return the answer to a request that ends with `error`, and the fields that join it for a page elsewhere."""
        accept = b",".join(values(fields, b"accept")) or None
        if isinstance(error, KeyRequired) and is_page(target) and accept is not None and b"text/html" in accept:
            error.status = 401  # the one 401 of ours: a browser that asks for a page can ask its person (DESIGN.md 3)
        host = (first(fields, b"host") or b"localhost").decode("latin-1")
        base_url = f"http://{host}" if self._has_pages else None
        problem = answer(error, accept=accept, base_url=base_url, head=method == "HEAD")
        self._emit(Refused(error.kind, problem.status, method, masked_target(target), error.detail))
        return problem, self._guard.cross_origin_fields(fields)
