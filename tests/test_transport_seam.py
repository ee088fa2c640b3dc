"""A request's head, rendered to the byte."""

import pytest

from proxy.errors import BadRequest
from proxy.transport.seam import CHUNKED, request_head


def test_a_head_keeps_order_case_and_bytes() -> None:
    head, length = request_head(b"POST", b"/a%2Fb?{}", [(b"X-B", b"\xe9"), (b"x-a", b""), (b"Content-Length", b"7")])

    assert head == b"POST /a%2Fb?{} HTTP/1.1\r\nX-B: \xe9\r\nx-a: \r\nContent-Length: 7\r\n\r\n"
    assert length == 7


@pytest.mark.parametrize(("fields", "length"), [([], 0), ([(b"transfer-encoding", b"chunked")], CHUNKED)])
def test_the_framing_is_read_from_the_fields(fields: list[tuple[bytes, bytes]], length: int) -> None:
    assert request_head(b"GET", b"/", fields)[1] == length


@pytest.mark.parametrize("odd", [b"a\r\nb", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("place", ["method", "target", "name", "value"])
def test_no_part_says_more_than_its_own_line(odd: bytes, place: str) -> None:
    """http-law 7: no CR, LF or NUL goes out."""
    parts = {"method": b"GET", "target": b"/", "name": b"X", "value": b"y"} | {place: odd}
    with pytest.raises(BadRequest):
        request_head(parts["method"], parts["target"], [(parts["name"], parts["value"])])


@pytest.mark.parametrize("second", [(b"content-length", b"1"), (b"Transfer-Encoding", b"chunked")])
def test_a_body_has_one_framing(second: tuple[bytes, bytes]) -> None:
    """H44."""
    with pytest.raises(BadRequest):
        request_head(b"POST", b"/", [(b"Content-Length", b"1"), second])
