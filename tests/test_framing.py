"""Answers as bytes: one framing each, and none that could pass for complete when it is not (H44-H49, P15)."""

import pytest

from proxy.errors import BrokenOff
from proxy.framing import Framing
from proxy.headers import Fields

LENGTH: Fields = [(b"content-length", b"4")]


def framing(*, is_head: bool = False, version: str = "1.1", keep_alive: bool = True) -> Framing:
    return Framing(is_head=is_head, version=version, keep_alive=keep_alive)


def said(head: bytes) -> list[bytes]:
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return [line for line in lines if not line.startswith(b"date: ")]


@pytest.mark.parametrize(
    ("version", "status", "fields", "framed", "body"),
    [
        pytest.param("1.1", 200, LENGTH, [b"content-length: 4"], b"body", id="length"),
        pytest.param("1.1", 200, [], [b"transfer-encoding: chunked"], b"4\r\nbody\r\n0\r\n\r\n", id="chunked"),
        pytest.param("1.0", 200, LENGTH, [b"content-length: 4"], b"body", id="length to 1.0"),
        pytest.param("1.0", 200, [], [], b"body", id="until close"),
    ],
)
async def test_h44_p15_a_body_has_one_framing(
    version: str, status: int, fields: Fields, framed: list[bytes], body: bytes
) -> None:
    answer = framing(version=version)

    assert said(answer.head(status, fields, is_early=False)) == [b"HTTP/1.1 200 OK", *framed]
    assert answer.piece(b"body") + answer.end() == body
    assert answer.is_close_delimited == (version == "1.0" and not fields)


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_h49_where_no_body_may_be_there_is_none(status: int) -> None:
    answer = framing(is_head=status == 200)
    fields = LENGTH if status == 200 else []

    assert said(answer.head(status, fields, is_early=False))[1:] == [b"%s: %s" % field for field in fields]
    assert answer.piece(b"body" if status == 200 else b"") + answer.end() == b""


async def test_an_empty_piece_is_not_the_last_chunk() -> None:
    answer = framing()
    answer.head(200, [], is_early=False)

    assert answer.piece(b"") == b""


@pytest.mark.parametrize("status", [200, 204])
async def test_h45_more_than_was_announced_breaks_off(status: int) -> None:
    answer = framing()
    answer.head(status, LENGTH, is_early=False)
    with pytest.raises(BrokenOff):
        answer.piece(b"five!")


async def test_h45_less_than_was_announced_breaks_off() -> None:
    answer = framing()
    answer.head(200, LENGTH, is_early=False)
    answer.piece(b"bod")
    with pytest.raises(BrokenOff):
        answer.end()


@pytest.mark.parametrize(
    ("keep_alive", "fields", "is_early"),
    [(False, [], False), (True, [(b"connection", b"close")], False), (True, [], True)],
    ids=["the caller's wish", "ours", "H27: the request was not read"],
)
async def test_the_last_answer_of_a_connection_says_so(keep_alive: bool, fields: Fields, is_early: bool) -> None:
    answer = framing(keep_alive=keep_alive)

    assert said(answer.head(200, [*fields, *LENGTH], is_early=is_early))[1:] == [
        b"content-length: 4",
        b"connection: close",
    ]
    assert not answer.keep_alive


async def test_h47_there_is_one_date() -> None:
    assert framing().head(200, [(b"date", b"then"), *LENGTH], is_early=False).count(b"date: ") == 1
    assert framing().head(200, LENGTH, is_early=False).count(b"date: ") == 1
