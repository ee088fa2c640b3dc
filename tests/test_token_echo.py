"""The search for our own token in answers, fed by hand (S30)."""

import random

import pytest

from proxy.headers import Fields
from proxy.token_echo import HIT, JSON_LIMIT, TEXT_LIMIT, Hit, Room, Search, Unsearched, is_in, search, searchable

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ0ZXN0In0.c2lnbmF0dXJl"
RAW = TOKEN.encode()


def fields(media_type: str | None, length: int | None = None, *more: tuple[bytes, bytes]) -> Fields:
    said: Fields = [*more]
    if media_type is not None:
        said.append((b"content-type", media_type.encode()))
    if length is not None:
        said.append((b"content-length", b"%d" % length))
    return said


def begun(said: Fields, *tokens: str, room: Room | None = None) -> Search:
    found = search(said, [token.encode() for token in tokens or (TOKEN,)], room or Room())
    assert isinstance(found, Search)
    return found


def flowed(one: Search, *chunks: bytes) -> bytes:
    """Return what `one` lets through of a body in which it finds nothing."""
    sent = b""
    for chunk in chunks:
        piece = one.feed(chunk)
        assert not isinstance(piece, Hit)
        sent += piece
    return sent + one.end()


# what is searched ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "length", "is_held"),
    [
        ("application/json", None, True),
        ("application/json; charset=utf-8", JSON_LIMIT, True),
        ("application/json", JSON_LIMIT + 1, False),
        ("APPLICATION/Problem+JSON", 100, True),
        ("application/vnd.sdmx.data+json;version=2.0.0", None, True),
        ("application/x-ndjson", None, False),
        ("application/json-seq", None, False),
        ("text/csv", TEXT_LIMIT, True),
        ("text/csv", TEXT_LIMIT + 1, False),
        ("text/csv", None, False),
        ("text/event-stream", None, False),
        ("application/vnd.sdmx.data+csv", 100, True),
        ("application/xml", 100, True),
        ("image/svg+xml", 100, True),
        ("application/x-www-form-urlencoded", 100, True),
        ("multipart/byteranges; boundary=x", None, False),
        (None, 100, True),
        (None, None, False),
        ("nonsense", 100, True),
        ("image/png, text/html", None, False),
    ],
)
def test_texts_are_searched_and_short_ones_held(media_type: str | None, length: int | None, *, is_held: bool) -> None:
    """JSON up to 1 MiB, whether it says its length or not; other text up to 64 KiB that does."""
    assert begun(fields(media_type, length)).is_holding is is_held


@pytest.mark.parametrize(
    "said",
    [
        fields("application/octet-stream", 100),
        fields("image/png"),
        fields("application/zip"),
        fields("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        fields("application/vnd.apache.parquet"),
        fields("application/json", 100, (b"content-encoding", b"gzip")),
        fields("text/csv", None, (b"content-encoding", b"identity"), (b"content-encoding", b"br")),
        fields("application/json", len(TOKEN) - 1),
    ],
)
def test_binary_compressed_and_tiny_bodies_are_not_searched(said: Fields) -> None:
    assert isinstance(search(said, [RAW], Room()), Unsearched)


@pytest.mark.parametrize("types", [["text/html", "image/png"], ["image/png", "text/html"], ["image/png", "image/png"]])
def test_of_two_types_nobody_knows_which_one_counts(types: list[str]) -> None:
    assert begun([(b"content-type", one.encode()) for one in types]).feed(RAW) is HIT


def test_identity_is_no_compression() -> None:
    assert begun(fields("text/csv", None, (b"content-encoding", b"Identity"))).feed(RAW) is HIT


def test_a_short_token_is_not_searched_for() -> None:
    """It would be found by chance: `demo` stands in many texts."""
    assert searchable(b"fifteen-letters") == ()
    assert searchable(b"sixteen--letters") == (b"sixteen--letters",)
    assert isinstance(search(fields("text/csv"), searchable(b"fifteen-letters"), Room()), Unsearched)


def test_fields_are_searched() -> None:
    assert is_in([(b"x", b"a"), (b"location", b"/?t=" + RAW + b"&x")], [b"another-access-token", RAW])
    assert not is_in([(b"x", RAW[:-1]), (RAW, b"")], [RAW])


# what flows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 53, 1000])
@pytest.mark.parametrize("media_type", ["text/csv", "application/json"])
def test_a_token_is_found_however_it_is_split(media_type: str, size: int) -> None:
    body = b"x," * 100 + b"eyJhbG eyJeyJ" + RAW + b"y"
    one, room = b"", Room()
    looking = begun(fields(media_type), room=room)
    for start in range(0, len(body), size):
        piece = looking.feed(body[start : start + size])
        if isinstance(piece, Hit):
            break
        one += piece
    else:
        pytest.fail("not found")
    looking.close()

    assert body.startswith(one)
    assert RAW[:1] not in one[-1:]
    assert len(one) <= body.index(RAW)
    assert room.held == 0


def test_no_event_waits_for_the_next() -> None:
    """What ends with its line cannot begin a token, and goes at once."""
    looking = begun(fields("text/event-stream"))

    assert looking.feed(b"data: eyJhbG\n\n") == b"data: eyJhbG\n\n"
    assert looking.feed(b"data: ey") == b"data: "
    assert looking.feed(b"e\n\n") == b"eye\n\n"


def test_what_begins_like_the_token_is_kept_back_and_no_more() -> None:
    looking = begun(fields("text/csv"))

    assert looking.feed(b"abc" + RAW[:-1]) == b"abc"
    assert looking.feed(b"X") == RAW[:-1] + b"X"
    assert looking.end() == b""


def test_a_beginning_at_the_end_of_a_whole_body_is_part_of_it() -> None:
    assert flowed(begun(fields("text/csv")), b"a", RAW[:10]) == b"a" + RAW[:10]


@pytest.mark.parametrize("media_type", ["text/csv", "application/json"])
def test_what_holds_no_token_passes_byte_for_byte(media_type: str) -> None:
    """Bodies made of pieces of the token, cut anywhere."""
    chance = random.Random(5)  # noqa: S311 - the same bodies in each run
    for _ in range(300):
        body = b"".join(RAW[chance.randrange(20) : chance.randrange(40)] for _ in range(20)).replace(RAW, b"")
        cuts = sorted(chance.randrange(len(body) + 1) for _ in range(5))
        chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

        assert flowed(begun(fields(media_type)), *chunks) == body


def test_each_token_of_a_replay_is_searched_for() -> None:
    for token in (TOKEN, "another-access-token"):
        looking = begun(fields("text/csv"), TOKEN, "another-access-token")
        assert looking.feed(token[:9].encode()) == b""
        assert looking.feed(token[9:].encode()) is HIT


# what is held --------------------------------------------------------------------------------------------------------


def test_a_held_body_comes_at_its_end_and_frees_its_room() -> None:
    room = Room()
    looking = begun(fields("application/json"), room=room)

    assert looking.feed(b'{"a":') == b""
    assert looking.is_holding
    assert room.held == 5
    assert looking.end() == b'{"a":'
    assert room.held == 0


def test_json_that_grows_beyond_the_limit_flows_and_is_searched_on() -> None:
    room = Room()
    looking = begun(fields("application/json"), room=room)
    first, second = b"x" * JSON_LIMIT, b"y" * 100 + RAW[:20]

    assert looking.feed(first) == b""
    assert looking.feed(second) == first + b"y" * 100
    assert not looking.is_holding
    assert room.held == 0
    assert looking.feed(RAW[20:]) is HIT


def test_without_room_a_body_flows_and_is_searched() -> None:
    room = Room(limit=10)
    first, second = begun(fields("application/json"), room=room), begun(fields("application/json"), room=room)

    assert first.feed(b"12345678") == b""
    assert second.feed(b"1234") == b"1234"
    assert second.feed(RAW) is HIT
    second.close()
    assert room.held == 8
    first.close()
    first.close()
    assert room.held == 0
