"""The local guard by table: who is let in, and with which sentence the others are not (local-security S1-S12)."""

import base64

import pytest

from proxy.errors import BadRequest, CallerRefused, KeyRequired, ProxyError
from proxy.guard import AllowedHost, Arrival, Guard, is_loopback
from proxy.headers import Fields

HERE = Arrival(("127.0.0.1", 8400), "127.0.0.1")
ON_SOCKET = Arrival(None, None)


def with_host(*hosts: bytes, **others: bytes) -> Fields:
    fields = [(b"host", host) for host in hosts]
    return fields + [(name.replace("_", "-").encode(), value) for name, value in others.items()]


def allowing(*entries: str, allow_remote: bool = False) -> Guard:
    return Guard(allowed_hosts=tuple(AllowedHost.parse(one) for one in entries), allow_remote=allow_remote)


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"localhost:8400", b"LOCALHOST:8400", b"127.0.0.1", b"127.0.0.1:8400", b"[::1]:8400", b"[::1]"],
)
def test_loopback_names_with_our_port_or_none_are_let_in(host: bytes) -> None:
    """S1, A1."""
    Guard().check(with_host(host), HERE)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.com",
        b"evil.com:8400",
        b"localhost.",
        b"localhost.evil.com",
        b"evil-localhost",
        b"xlocalhost",
        b"127.1",
        b"127.0.0.2",
        b"0.0.0.0:8400",
        b"2130706433",
        b"0x7f000001",
        b"[::]",
        b"[::ffff:127.0.0.1]:8400",
        b"localhost:8401",
        b"localhost:99999",
        b"localhost:0",
        b"localhost:08401",
        b"my-laptop",
    ],
)
def test_any_other_name_is_refused(host: bytes) -> None:
    """S1, S7, A1."""
    with pytest.raises(CallerRefused) as refusal:
        Guard().check(with_host(host), HERE)

    assert refusal.value.status == 403


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        (b"",),
        (b"localhost", b"localhost"),
        (b"localhost:8400", b"evil.com"),
        (b"x@localhost",),
        (b"a/b@c",),
        (b"localhost/",),
        (b"localhost:",),
        (b"localhost:84OO",),
        (b"localhost:8400:1",),
        (b"localhost:123456",),
        (b" localhost",),
        (b"localhost ",),
        (b"localhost,evil.com",),
        (b"localhost\xff",),
        (b"[::1",),
        (b"::1",),
        (b"[localhost]",),
        (b"local%68ost",),
    ],
)
def test_a_host_that_is_missing_repeated_or_malformed_is_a_bad_request(hosts: tuple[bytes, ...]) -> None:
    """H1, S1, A1."""
    with pytest.raises(BadRequest) as refusal:
        Guard().check(with_host(*hosts), HERE)

    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("entry", "host", "is_let_in"),
    [
        ("proxy", b"proxy", True),
        ("proxy", b"proxy:8400", True),
        ("proxy", b"PROXY:8400", True),
        ("Proxy.Internal", b"proxy.internal", True),
        ("proxy", b"proxy:9000", False),
        ("proxy", b"proxy.evil.com", False),
        ("proxy:9000", b"proxy:9000", True),
        ("proxy:9000", b"proxy", False),
        ("proxy:9000", b"proxy:8400", False),
        ("proxy:*", b"proxy:1", True),
        ("proxy:*", b"proxy", True),
        ("my_service", b"my_service:8400", True),
        ("[fd00::1]", b"[fd00::1]:8400", True),
    ],
)
def test_allowed_hosts_are_names_with_our_port_their_own_or_any(entry: str, host: bytes, is_let_in: bool) -> None:
    guard = allowing(entry)

    if is_let_in:
        guard.check(with_host(host), HERE)
    else:
        with pytest.raises(CallerRefused, match=r"server\.allowed_hosts"):
            guard.check(with_host(host), HERE)


@pytest.mark.parametrize("entry", ["", "*", "a b", "http://proxy", "proxy:", "proxy:x", "proxy:1:*", "proxy/", "*.x"])
def test_an_entry_that_is_no_host_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        AllowedHost.parse(entry)


@pytest.mark.parametrize("host", [b"localhost", b"localhost:1", b"127.0.0.1:65535"])
def test_on_a_unix_socket_the_port_is_not_checked(host: bytes) -> None:
    Guard().check(with_host(host), ON_SOCKET)


def test_on_a_unix_socket_the_name_is_checked() -> None:
    with pytest.raises(CallerRefused):
        Guard().check(with_host(b"evil.com"), ON_SOCKET)


@pytest.mark.parametrize(
    ("local", "host", "is_let_in"),
    [
        ("10.0.0.7", b"10.0.0.7:8400", True),
        ("10.0.0.7", b"10.0.0.7", True),
        ("::ffff:10.0.0.7", b"10.0.0.7:8400", True),
        ("fd00::7", b"[fd00:0::7]:8400", True),
        ("10.0.0.7", b"10.0.0.8:8400", False),
        ("10.0.0.7", b"10.0.0.7:80", False),
        ("10.0.0.7", b"ten.example", False),
    ],
)
def test_with_allow_remote_the_literal_address_of_arrival_passes(local: str, host: bytes, is_let_in: bool) -> None:
    """S9."""
    arrived = Arrival((local, 8400), "10.0.0.99")
    guard = allowing("proxy", allow_remote=True)

    if is_let_in:
        guard.check(with_host(host), arrived)
    else:
        with pytest.raises(CallerRefused):
            guard.check(with_host(host), arrived)


def test_without_allow_remote_the_address_of_arrival_does_not_pass() -> None:
    with pytest.raises(CallerRefused):
        Guard().check(with_host(b"10.0.0.7:8400"), Arrival(("10.0.0.7", 8400), "127.0.0.1"))


@pytest.mark.parametrize("peer", ["10.0.0.99", "192.168.1.2", "::ffff:10.0.0.1", "fe80::1%eth0", "nonsense"])
def test_a_peer_from_outside_is_refused_though_it_reached_loopback(peer: str) -> None:
    """S10, A6."""
    with pytest.raises(CallerRefused, match="this machine"):
        Guard().check(with_host(b"localhost"), Arrival(("127.0.0.1", 8400), peer))


def test_s10_a_tcp_peer_who_has_gone_may_have_come_from_anywhere() -> None:
    """It sent and reset at once, so that the socket no longer tells an address; only a unix socket never has one."""
    with pytest.raises(CallerRefused):
        Guard().check_peer(Arrival(("127.0.0.1", 8400), None))
    Guard().check_peer(ON_SOCKET)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_all_of_loopback_is_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil",
        b"null",
        b"NULL",
        b"",
        b"http://localhost:3000",
        b"https://localhost:8400",
        b"http://127.0.0.1:8400",
        b"http://localhost:8400.evil.com",
        b"file://",
    ],
)
def test_an_origin_that_is_not_ours_is_refused(origin: bytes) -> None:
    """S2, A2."""
    with pytest.raises(CallerRefused, match=r"server\.allowed_origins"):
        Guard().check(with_host(b"localhost:8400", origin=origin), HERE)


def test_two_origins_are_refused_even_if_both_are_allowed() -> None:
    guard = Guard(allowed_origins=frozenset({"https://app.example"}))
    twice = [(b"origin", b"https://app.example")] * 2

    with pytest.raises(CallerRefused):
        guard.check([*with_host(b"localhost"), *twice], HERE)


@pytest.mark.parametrize("origin", [b"http://localhost:8400", b"HTTP://LOCALHOST:8400"])
def test_our_own_pages_are_let_in(origin: bytes) -> None:
    Guard().check(with_host(b"localhost:8400", origin=origin), HERE)


def test_an_allowed_origin_is_let_in_whatever_sec_fetch_site_says() -> None:
    """S2-S4, A3."""
    guard = Guard(allowed_origins=frozenset({"https://app.example"}))

    guard.check(with_host(b"localhost", origin=b"https://APP.example", sec_fetch_site=b"cross-site"), HERE)


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"Cross-Site", b"", b"none, cross-site", b"new-word"])
def test_a_request_that_another_site_caused_is_refused(site: bytes) -> None:
    """S3, A2."""
    with pytest.raises(CallerRefused, match="another site"):
        Guard().check(with_host(b"localhost", sec_fetch_site=site), HERE)


def test_a_second_sec_fetch_site_cannot_hide_behind_the_first() -> None:
    sites = [(b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")]

    with pytest.raises(CallerRefused):
        Guard().check([*with_host(b"localhost"), *sites], HERE)


@pytest.mark.parametrize("site", [b"none", b"same-origin", b" None "])
def test_a_typed_url_and_our_own_pages_are_let_in(site: bytes) -> None:
    """S3, A3."""
    Guard().check(with_host(b"localhost", sec_fetch_site=site), HERE)


def test_node_is_no_browser() -> None:
    Guard().check(with_host(b"localhost:8400", sec_fetch_mode=b"cors", accept_language=b"*"), HERE)


KEYED = Guard(api_key="s3cret")


def basic(text: str) -> bytes:
    return base64.b64encode(text.encode())


@pytest.mark.parametrize(
    "others",
    [
        {"x_bearerproxy_key": b"s3cret"},
        {"authorization": b"Basic " + basic("any:s3cret")},
        {"authorization": b"basic  " + basic(":s3cret")},
        {"x_bearerproxy_key": b"s3cret", "authorization": b"Bearer theirs"},
    ],
)
def test_the_key_may_come_in_its_field_or_as_a_basic_password(others: dict[str, bytes]) -> None:
    """S12."""
    KEYED.check(with_host(b"localhost", **others), HERE)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"x_bearerproxy_key": b""},
        {"x_bearerproxy_key": b"wrong"},
        {"x_bearerproxy_key": b"s3cret2"},
        {"x_bearerproxy_key": b"\xff"},
        {"x_bearerproxy_key": b"wrong", "authorization": b"Basic " + basic("any:s3cret")},
        {"authorization": b"Basic " + basic("s3cret:")},
        {"authorization": b"Basic " + basic("s3cret")},
        {"authorization": b"Basic s3cret"},
        {"authorization": b"Basic"},
        {"authorization": b"Bearer s3cret"},
    ],
)
def test_a_missing_or_wrong_key_is_refused_with_the_way_to_send_it(others: dict[str, bytes]) -> None:
    """S12, A6."""
    with pytest.raises(KeyRequired, match="X-Bearerproxy-Key"):
        KEYED.check(with_host(b"localhost", **others), HERE)


def test_the_key_is_asked_for_last_so_that_strangers_do_not_learn_of_it() -> None:
    with pytest.raises(CallerRefused):
        KEYED.check(with_host(b"evil.com"), HERE)


def test_the_key_is_not_shown() -> None:
    assert "s3cret" not in repr(KEYED)


@pytest.mark.parametrize("origin", [b"https://app.example", b"https://APP.example"])
def test_an_allowed_origin_gets_its_own_name_back_and_vary(origin: bytes) -> None:
    """S4, A3."""
    guard = Guard(allowed_origins=frozenset({"https://app.example"}))

    fields = dict(guard.cross_origin_fields([(b"origin", origin)]))

    assert fields[b"access-control-allow-origin"] == origin
    assert fields[b"vary"] == b"Origin"
    assert b"access-control-allow-private-network" not in fields
    assert b"access-control-allow-credentials" not in fields


@pytest.mark.parametrize("fields", [[], [(b"origin", b"https://evil")], [(b"origin", b"http://localhost:8400")]])
def test_nobody_else_gets_a_cross_origin_field(fields: Fields) -> None:
    """S4, S5, A4."""
    assert Guard(allowed_origins=frozenset({"https://app.example"})).cross_origin_fields(fields) == []


def test_no_refusal_is_a_misdirected_request() -> None:
    """S1, H29."""
    for host in (b"evil.com", b"", b"localhost:1"):
        with pytest.raises(ProxyError) as refusal:
            Guard().check(with_host(host), HERE)

        assert refusal.value.status != 421  # RFC 9110 15.5.20: a client would repeat it elsewhere


def test_a_name_that_was_let_in_at_one_port_is_looked_at_again_at_another() -> None:
    guard = Guard()
    for _ in range(2):
        guard.check(with_host(b"localhost:8400"), HERE)
        with pytest.raises(CallerRefused):
            guard.check(with_host(b"localhost:8400"), Arrival(("127.0.0.1", 8401), "127.0.0.1"))
        with pytest.raises(BadRequest):
            guard.check(with_host(b"localhost:8400", b"localhost:8400"), HERE)
