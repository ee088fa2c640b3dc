"""Pieces end where messages end, however the bytes come: what the parser gets is what was sent."""

import random
from itertools import pairwise

import pytest

from proxy.pieces import LONGEST, Pieces

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def cut(data: bytes, pieces: Pieces) -> list[bytes]:
    ends = [0]
    while ends[-1] < len(data):
        ends.append(pieces.end(data, ends[-1]))
    return [data[start:end] for start, end in pairwise(ends)]


def in_reads(data: bytes, *at: int) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *at, len(data)])]


def test_each_head_is_a_piece() -> None:
    assert cut(HEAD * 3 + b"GET /", Pieces()) == [HEAD, HEAD, HEAD, b"GET /"]


@pytest.mark.parametrize("at", range(1, len(HEAD)))
def test_an_end_that_is_split_over_two_reads_is_seen(at: int) -> None:
    pieces = Pieces()
    given = [piece for read in in_reads(HEAD + b"GET", at) for piece in cut(read, pieces)]

    assert given == [HEAD[:at], HEAD[at:], b"GET"]


def test_an_end_that_comes_byte_by_byte_is_seen() -> None:
    pieces = Pieces()
    assert [cut(bytes([one]), pieces) for one in HEAD] == [[bytes([one])] for one in HEAD]
    assert cut(HEAD, pieces) == [HEAD]


def test_an_unfinished_head_comes_in_pieces_of_bounded_length() -> None:
    """P2: what is too large is noticed soon behind the limit, not behind the read."""
    given = cut(b"X" * (3 * LONGEST + 5), Pieces())

    assert [len(one) for one in given] == [LONGEST, LONGEST, LONGEST, 5]


def test_a_body_with_a_length_is_cut_by_its_length_alone() -> None:
    pieces = Pieces()
    pieces.begin_body(10)

    assert cut(b"a\r\n\r\nb\r\n\r\n" + HEAD, pieces) == [b"a\r\n\r\nb\r\n\r\n", HEAD]


def test_a_body_in_several_reads_ends_where_it_ends() -> None:
    pieces = Pieces()
    pieces.begin_body(300_000)

    assert [len(one) for one in cut(b"x" * 262_144, pieces)] == [262_144]
    assert [len(one) for one in cut(b"x" * 37_856 + HEAD, pieces)] == [37_856, len(HEAD)]


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"000;a=b\r\n\r\n", b"0\r\nX: y\r\nZ: z\r\n\r\n"])
@pytest.mark.parametrize("chunk", [b"hello", b"\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"\r\n\r\n\r\n\r"])
def test_a_chunked_body_ends_with_a_piece(last: bytes, chunk: bytes) -> None:
    """H12: whatever a chunk holds, no piece runs from one message into the next, in whatever reads they come."""
    body = b"%x\r\n%s\r\n" % (len(chunk), chunk) + last
    for at in range(1, len(body)):
        pieces = Pieces()
        pieces.begin_chunks()
        done, ends = 0, []
        for read in in_reads(body + HEAD, at):
            for piece in cut(read, pieces):
                done += len(piece)
                ends.append(done)
        assert len(body) in ends


def test_nothing_is_lost_or_added() -> None:
    chosen = random.Random(5)  # noqa: S311 - no secret
    for _ in range(300):
        data = bytes(chosen.choices(b"\r\nab", k=chosen.randrange(1, 60)))
        pieces = Pieces()
        given = [piece for read in in_reads(data, chosen.randrange(len(data) + 1)) for piece in cut(read, pieces)]
        assert b"".join(given) == data
        assert all(given)
