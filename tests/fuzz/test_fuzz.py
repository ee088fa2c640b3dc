"""Made-up requests, a few hundred in each run and the same ones; `scripts/fuzz` goes on for as long as you like.

What once went wrong, and what is known to go wrong elsewhere, stands in corpus/ and is sent each time.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.making import clean_conversations, hostile_conversations
from tests.fuzz.rig import TOKENS, Astray, Rig, rig
from tests.fuzz.strict import Reader, Violation, meant

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.raw"))
MILD = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def there() -> Iterator[Rig]:
    with rig() as running:
        yield running


@settings(MILD, max_examples=150)
@given(pieces=clean_conversations())
def test_a7_a14_what_is_meant_arrives_however_it_is_written(there: Rig, pieces: list[bytes]) -> None:
    """H17, H24, H28, H43, H44, S19: pipelined, in any packets, and nothing is refused."""
    said = there.talk(pieces)

    assert {*said} == {200}
    assert len(said) == len(meant(b"".join(pieces)).requests)


@settings(MILD, max_examples=400)
@given(pieces=hostile_conversations())
def test_a7_s19_what_is_malformed_reaches_no_upstream(there: Rig, pieces: list[bytes]) -> None:
    """A8-A12, S20, S21, S23, S26: what was meant, or nothing; with the token of that upstream alone."""
    there.talk(pieces)


@settings(MILD, max_examples=100)
@given(pieces=hostile_conversations())
def test_a19_a_caller_who_leaves_completes_nothing(there: Rig, pieces: list[bytes]) -> None:
    """H46."""
    there.talk(pieces, leaves=True)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a7_the_corpus(there: Rig, path: Path) -> None:
    """S19: whole, byte for byte, and in two pieces cut anywhere."""
    raw = path.read_bytes()

    there.talk([raw])
    there.talk([raw[at : at + 1] for at in range(len(raw))])
    for at in range(1, len(raw), 13):
        there.talk([raw[:at], raw[at:]])


# the judge is judged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    ],
)
def test_the_strict_reader_takes_nothing_else(raw: bytes) -> None:
    with pytest.raises(Violation):
        Reader(raw).request()


def test_a_second_request_upstream_is_noticed(there: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the upstream saw and nobody meant is astray."""
    raw = b"GET /a/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    smuggled = raw + b"GET /a/2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    only_first = meant(raw)
    monkeypatch.setattr("tests.fuzz.rig.meant", lambda _: only_first)

    with pytest.raises(Astray):
        there.talk([smuggled, raw])


def test_another_token_is_noticed(there: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOKENS, "/a", b"another")

    with pytest.raises(Astray, match="what was meant is"):
        there.talk([b"GET /a/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"])
