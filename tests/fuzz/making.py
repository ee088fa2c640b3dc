"""Conversations to have with the proxy: requests as they should be, and as nobody should write them."""

from collections.abc import Callable
from functools import reduce

from hypothesis import strategies as st

METHODS = st.sampled_from([b"GET"] * 4 + [b"POST"] * 4 + [b"HEAD", b"PUT", b"PATCH", b"DELETE"])
ODD_METHODS = st.sampled_from([b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"PRI", b"PROPFIND", b"PURGE", b"G\x00T", b""])
_PATH = st.text("abcXYZ019-_~!$&'()*+,;=:@/", max_size=20).map(str.encode)
_ESCAPES = st.sampled_from([b"%2F", b"%2f", b"%20", b"%C3%A9", b"a..b", b"+ALB..Q..", b";v=1", b"|", b"%7C", b"%25"])
_QUERY = st.one_of(
    st.just(b""),
    st.just(b"?"),
    st.text("abc=&+%;|/?:@'\"<>^`{}~.", max_size=20).map(lambda text: b"?" + text.encode()),
)
_ODD_PATHS = st.sampled_from([
    b"/..", b"/../b/x", b"/%2e%2e/b", b"/.%2E/", b"/..;/b", b"/\\..\\b", b"//b/x", b"/%00", b"/%0d%0aX:y", b"/#x",
    b"/%zz", b"/%", b"@evil/", b":80/", b"-evil/x", b"/%252e%252e/b", b"/\xc3\xa9",
])  # fmt: skip
_AUTHORITIES = st.sampled_from([b"", b"", b"", b"", b"http://localhost", b"HTTP://LOCALHOST"])
_VALUES = st.binary(max_size=20).map(
    lambda raw: bytes(byte for byte in raw if byte in range(0x20, 0x7F) or byte > 0x7F)
)
_NAMES = st.sampled_from([b"X-Own-A", b"x-own-b", b"X-OWN-C", b"X-Own-!#$%&'*+.^`|~9"])
_SPACES = st.sampled_from([b" ", b"", b"  ", b"\t", b" \t "])
STRANGE_FIELDS = [
    b"Connection: x-own-a", b"Connection: authorization, host, via", b"Connection: keep-alive", b"Connection: close",
    b"Authorization: Bearer theirs", b"X_Own_A: twin", b"Via: 1.1 other", b"Expect: 100-continue", b"Cookie: a=b",
    b"Proxy-Authorization: Basic eDp4", b"Forwarded: for=1.2.3.4", b"X-Forwarded-Host: evil", b"TE: trailers",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Accept-Encoding: gzip", b"Trailer: x-own-a", b"Keep-Alive: 5",
]  # fmt: skip
EVIL_LINES = [
    b"Upgrade: websocket\r\nConnection: upgrade",
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 0x5",
    b"Content-Length: -1", b"Content-Length: 5 5", b"Content-Length: 99999999999999999999", b"Content-Length:",
    b"Content-Length : 5", b"Content_Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding:\x0bchunked", b'Transfer-Encoding: "chunked"', b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: identity", b"X: y\r\n folded", b" Transfer-Encoding: chunked", b"X: \x00", b"X\x00: y",
    b"X: a\rTransfer-Encoding: chunked", b"X: a\nTransfer-Encoding: chunked", b"Host: evil.example", b"Host:",
    b"Host: localhost\r\nHost: localhost", b"Host: localhost@evil", b": x", b"no colon", b"X: \x01", b"X: \x7f",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"\xc3\xa9: x", b"Connection: content-length", b"Connection: transfer-encoding", b"Expect: nonsense",
]  # fmt: skip
SMUGGLED = b"GET /b/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\x00", b"\x0b", b" ", b"\t", b":", b";", b",", b"\r\n\r\n", b"\n\n", b"0\r\n\r\n",
    b"5\r\n", b"0\r\n", b"ffffffffffffffff\r\n", b'5;x="\r\n', b"-5\r\n", b"0x5\r\n", b"5 \r\n", b" 5\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b" HTTP/1.1\r\n", b"\xff", SMUGGLED,
    *(line + b"\r\n" for line in EVIL_LINES),
]  # fmt: skip


@st.composite
def targets(draw: st.DrawFn, *, is_odd: bool) -> bytes:
    mount = draw(st.sampled_from([b"/a", b"/b"]))
    rest = draw(_ODD_PATHS) if is_odd else b"/" + draw(_PATH) + draw(st.one_of(st.just(b""), _ESCAPES))
    authority = draw(_AUTHORITIES if not is_odd else st.sampled_from([b"", b"http://evil.example", b"ftp://localhost"]))
    return authority + mount + draw(st.sampled_from([rest, rest, rest, b""])) + draw(_QUERY)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """Return `body` in chunks, with extensions and a trailer that must not matter."""
    cuts = sorted(draw(st.lists(st.integers(1, max(len(body), 1)), max_size=4, unique=True)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    said = b""
    for piece in pieces:
        if piece:
            size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
            said += size + draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"'])) + b"\r\n" + piece + b"\r\n"
    trailer = draw(
        st.sampled_from([b"", b"", b"X-Own-A: trailer\r\n", b"Authorization: Bearer trailer\r\n", b"Host: x\r\n"])
    )
    return said + draw(st.sampled_from([b"0", b"000"])) + b"\r\n" + trailer + b"\r\n"


@st.composite
def requests(draw: st.DrawFn, *, is_odd: bool) -> bytes:
    """Return one request; an odd one has a target, a method or a field line that nobody should send."""
    method = draw(ODD_METHODS if is_odd and draw(st.booleans()) else METHODS)
    target = draw(targets(is_odd=is_odd and draw(st.booleans())))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 9 + [b"HTTP/1.0"]))
    host = draw(st.sampled_from([b"localhost", b"LOCALHOST", b"127.0.0.1", b"[::1]"]))
    lines = [
        draw(_NAMES) + b":" + draw(_SPACES) + draw(_VALUES) + draw(_SPACES) for _ in range(draw(st.integers(0, 4)))
    ]
    lines += draw(st.lists(st.sampled_from(STRANGE_FIELDS), max_size=2))
    body = b""
    match draw(st.sampled_from(["none", "length", "chunked"])):
        case "length":
            body = draw(st.binary(max_size=60))
            lines.append(b"Content-Length: %d" % len(body))
        case "chunked" if method not in (b"GET", b"HEAD") and version == b"HTTP/1.1":
            body = draw(chunked(draw(st.binary(max_size=60))))
            lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED "])))
    lines = [b"Host: " + host, *draw(st.permutations(lines))]
    if is_odd:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(EVIL_LINES)))
    return b" ".join([method, target, version]) + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def split(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """Return `raw` in pieces that arrive one after the other."""
    cuts = sorted(draw(st.lists(st.integers(1, max(len(raw) - 1, 1)), max_size=6, unique=True)))
    return [piece for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if (piece := raw[a:b])]


Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """Return one small damage to raw bytes; places are shares of the length, so that they mean something to any."""
    place, length = draw(st.floats(0, 1)), draw(st.integers(1, 12))
    fragment = draw(st.sampled_from(FRAGMENTS))
    kind = draw(st.sampled_from(["insert", "insert", "line", "line", "delete", "repeat", "byte", "cut"]))

    def mutate(raw: bytes) -> bytes:
        at = int(place * len(raw))
        match kind:
            case "insert":
                return raw[:at] + fragment + raw[at:]
            case "line":
                line = raw.find(b"\r\n", at) + 2
                return raw[:line] + fragment + raw[line:] if line > 1 else raw + fragment
            case "delete":
                return raw[:at] + raw[at + length :]
            case "repeat":
                return raw[: at + length] + raw[at:]
            case "byte":
                return raw[:at] + fragment[:1] + raw[at + 1 :]
            case _:
                return raw[: at + 1]

    return mutate


@st.composite
def clean_conversations(draw: st.DrawFn) -> list[bytes]:
    """Requests that are all right, pipelined, in whatever packets."""
    return draw(split(b"".join(draw(st.lists(requests(is_odd=False), min_size=1, max_size=3)))))


@st.composite
def hostile_conversations(draw: st.DrawFn) -> list[bytes]:
    """Requests of which some are odd, and then damaged."""
    said = [draw(requests(is_odd=draw(st.booleans()))) for _ in range(draw(st.integers(1, 3)))]
    damage = draw(st.lists(mutations(), max_size=3))
    raw = reduce(lambda raw, mutate: mutate(raw), damage, b"".join(said))
    return draw(split(raw)) if raw else []
