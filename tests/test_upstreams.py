"""Routing and policy on the raw target, by table (http-law H28-H33; issue of the main job, "Names and precedence")."""

from typing import Any

import pytest

from proxy.errors import BadRequest, NotAllowed
from proxy.upstreams import Match, Mounts, Upstream, judge, judged_segments, split_target


def upstream(mount: str = "/data", **settings: Any) -> Upstream:
    there: dict[str, Any] = {"name": "data", "scheme": "https", "host": "api.example.org", "port": 443}
    return Upstream(**{**there, "mount": mount, **settings})


@pytest.mark.parametrize(
    ("settings", "authority"),
    [
        ({}, "api.example.org"),
        ({"port": 8443}, "api.example.org:8443"),
        ({"scheme": "http", "port": 80}, "api.example.org"),
        ({"scheme": "http", "port": 443}, "api.example.org:443"),
        ({"host": "::1"}, "[::1]"),
        ({"host": "::1", "port": 1}, "[::1]:1"),
    ],
)
def test_host_names_the_port_only_where_it_is_not_the_schemes_own(settings: dict[str, Any], authority: str) -> None:
    assert upstream(**settings).authority == authority


def test_the_url_is_the_origin_with_the_base_path() -> None:
    there = upstream(port=8443, base_path=b"/v1")

    assert (there.origin, there.url) == ("https://api.example.org:8443", "https://api.example.org:8443/v1")


MOUNTS = Mounts([upstream("/provena/data"), upstream("/provena"), upstream("/dotstat/rest")])


@pytest.mark.parametrize(
    ("path", "mount", "rest"),
    [
        (b"/provena/data/x", b"/provena/data", b"/x"),
        (b"/provena/data", b"/provena/data", b""),
        (b"/provena/data/", b"/provena/data", b"/"),
        (b"/provena/database", b"/provena", b"/database"),
        (b"/provena/x", b"/provena", b"/x"),
        (b"/dotstat/rest//x//", b"/dotstat/rest", b"//x//"),
        (b"/dotstat/rest/a/b/c/d/e", b"/dotstat/rest", b"/a/b/c/d/e"),
        (b"/provena-evil", None, b""),
        (b"/dotstat", None, b""),
        (b"/dotstat/restless", None, b""),
        (b"/Provena", None, b""),
        (b"/%70rovena", None, b""),
        (b"/provena%2Fdata", None, b""),
        (b"/provena@evil", None, b""),
        (b"/x/provena", None, b""),
        (b"/", None, b""),
        (b"/-/", None, b""),
    ],
)
def test_the_longest_mount_wins_on_segment_boundaries(path: bytes, mount: bytes | None, rest: bytes) -> None:
    """H33, A13."""
    found = MOUNTS.match(path, b"")

    assert (found.mount if found else None) == mount
    assert (found.path if found else b"") == rest


def test_mounts_are_named_in_the_order_of_the_configuration() -> None:
    assert MOUNTS.names == ("/provena/data", "/provena", "/dotstat/rest")


def test_no_mounts_match_nothing() -> None:
    assert Mounts([]).match(b"/x", b"") is None


@pytest.mark.parametrize(
    ("settings", "path", "query", "target"),
    [
        ({}, b"/a%2Fb", b"?x=%2f&y=a+b;c&z=%zz|", b"/a%2Fb?x=%2f&y=a+b;c&z=%zz|"),
        ({}, b"", b"", b"/"),
        ({}, b"/", b"?", b"/?"),
        ({}, b"", b"?x", b"/?x"),
        ({"base_path": b"/v1"}, b"", b"", b"/v1"),
        ({"base_path": b"/v1"}, b"/", b"", b"/v1/"),
        ({"base_path": b"/v1"}, b"//x//", b"", b"/v1//x//"),
        ({"drops_csv_suffix": True}, b"/data/F/all.csv", b"?a=b.csv", b"/data/F/all?a=b.csv"),
        ({"drops_csv_suffix": True}, b"/data/F/all.CSV", b"", b"/data/F/all"),
        ({}, b"/data/F/all.csv", b"", b"/data/F/all.csv"),
    ],
)
def test_what_the_upstream_is_asked_for(settings: dict[str, Any], path: bytes, query: bytes, target: bytes) -> None:
    assert Match(upstream(**settings), b"/data", path, query).target == target


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a%2Fb?x=%2f&y=a+b;c&z=%zz|",
        b"/a?",
        b"/a??b?c",
        b"/data/F/AGO+ALB..Q..",
        b"/data/F/..Q",
        b"/data/F/...",
        b"/.well-known/x",
        b"/a./b../.c/..d",
        b"/a//b//",
        b"/a,b@c:d;e=f*|{}!$&'()~-_=",
        b"/a?dots=/../..&back\\slash",
        b"/a%5Cb/%E2%82%AC%25",
        b"/a?at=2020-01-01T00:00:00+01:00",
        b"/a?q=%00%0a",
        b"/@evil",
        b"/" + b"k" * 32768,
    ],
)
def test_a_target_passes_byte_for_byte(target: bytes) -> None:
    """H28, H32, A14."""
    path, query = split_target(target)

    assert path + query == target


@pytest.mark.parametrize(
    "target",
    [
        b"/p/../q",
        b"/p/..",
        b"/p/.",
        b"/.",
        b"/..",
        b"/./p",
        b"/p/%2e%2e/q",
        b"/p/%2E%2e%2fq",
        b"/p/.%2e/q",
        b"/p/%252e%252e/q",
        b"/p/%25252e./q",
        b"/p/..;/q",
        b"/p/..;x=y/q",
        b"/p/..%3bx/q",
        b"/p/.;/q",
        b"/p/%2f..",
        b"/p/%2F%2e%2E%2Fq",
        b"/p%5c..%5cq",
        b"/p%255c..%255cq",
        b"/..?x",
        b"/p\\..\\q",
        b"/\\evil",
        b"//evil",
        b"//evil/..",
        b"/p%00",
        b"/p%0d%0aX:%20y",
        b"/p%0A",
        b"/p#f",
        b"/p?q#f",
        b"/p q",
        b"/p?q q",
        b"/p\tq",
        b"/p\x7f",
        b"/caf\xc3\xa9",
        b"/p?caf\xe9",
        b"/p%",
        b"/p%2",
        b"/p%zz",
        b"*",
        b"",
        b"p",
        b"@evil",
        b"?x",
        b"http://evil/",
    ],
)
def test_a_target_that_could_leave_its_place_is_refused(target: bytes) -> None:
    """H30, H31, S26, A12."""
    with pytest.raises(BadRequest):
        split_target(target)


def test_a_key_of_dots_alone_gets_the_advice_to_write_all() -> None:
    with pytest.raises(BadRequest, match="write 'all' instead"):
        split_target(b"/rest/data/F/..")


def judged(path: bytes, method: str = "GET", **settings: Any) -> None:
    judge(Match(upstream(**settings), b"/data", path, b""), method)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_the_usual_methods_are_relayed(method: str) -> None:
    judged(b"/x", method)


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "PURGE", "QUERY", "get", "PROPFIND", "OPTIONS", ""])
def test_no_other_method_is(method: str) -> None:
    """H19, H20."""
    with pytest.raises(NotAllowed) as refusal:
        judged(b"/x", method)

    assert refusal.value.status == 405
    assert refusal.value.allow == "GET, HEAD, POST, PUT, PATCH, DELETE"


def test_methods_allow_what_they_name_and_allow_says_so() -> None:
    """H19."""
    allowed = frozenset({"GET", "POST"})
    judged(b"/x", "POST", methods=allowed)

    with pytest.raises(NotAllowed) as refusal:
        judged(b"/x", "HEAD", methods=allowed)

    assert (refusal.value.status, refusal.value.allow) == (405, "GET, POST")


READING: dict[str, Any] = {"read_only": True, "reading_posts": ("/registry/*/list", "/explore/**", "/data/*/body")}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", b"/anything"),
        ("HEAD", b"/anything"),
        ("POST", b"/registry/item/list"),
        ("POST", b"/Registry/item/LIST"),
        ("POST", b"/registry//item/list/"),
        ("POST", b"/explore"),
        ("POST", b"/explore/up/stream"),
        ("POST", b"/data/F,1.0/body"),
    ],
)
def test_read_only_relays_what_is_known_to_read(method: str, path: bytes) -> None:
    judged(path, method, **READING)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", b"/registry/item/list"),
        ("DELETE", b"/x"),
        ("PATCH", b"/x"),
        ("POST", b"/registry/item/create"),
        ("POST", b"/registry/list"),
        ("POST", b"/registry/a/b/list"),
        ("POST", b"/registry/item/list/more"),
        ("POST", b"/registry/a%2Fb/list"),
        ("POST", b"/explored"),
        ("POST", b"/"),
    ],
)
def test_read_only_refuses_what_may_write(method: str, path: bytes) -> None:
    with pytest.raises(NotAllowed) as refusal:
        judged(path, method, **READING)

    assert refusal.value.status == 405


def test_read_only_without_reading_posts_names_get_and_head_alone() -> None:
    with pytest.raises(NotAllowed) as refusal:
        judged(b"/x", "POST", read_only=True)

    assert refusal.value.allow == "GET, HEAD"


DENY: dict[str, Any] = {"deny": ("/check-access/", "/a/b", "/Caf%C3%A9")}


@pytest.mark.parametrize(
    "path",
    [
        b"/check-access",
        b"/check-access/",
        b"/check-access/public",
        b"/CHECK-access/x",
        b"/check%2Daccess/x",
        b"/%63heck-access/x",
        b"//check-access//x",
        b"/check-access;v=1/x",
        b"/check-access%3Bv=1/x",
        b"/;x/check-access/x",
        b"/check-access%2Fx",
        b"/check-access%5Cx",
        b"/a/b",
        b"/a%2fb",
        b"/A//B/c",
        b"/a;x/b;y",
        b"/caf%c3%a9",
        b"/CAF%C3%89/x",
        b"/chec%E2%84%AA-access",
    ],
)
def test_a_denied_path_is_refused_in_every_spelling(path: bytes) -> None:
    with pytest.raises(NotAllowed) as refusal:
        judged(path, **DENY)

    assert refusal.value.status == 403


@pytest.mark.parametrize("path", [b"/check-accessible", b"/x/check-access", b"/a", b"/a/c/b", b"/ab", b"/", b""])
def test_what_only_looks_like_a_denied_path_is_relayed(path: bytes) -> None:
    judged(path, **DENY)


@pytest.mark.parametrize("path", [b"/check%252Daccess", b"/x%25y", b"/a%252fb"])
def test_an_encoded_percent_cannot_be_judged_where_something_is_denied(path: bytes) -> None:
    with pytest.raises(BadRequest, match="encoded twice"):
        judged(path, **DENY)


def test_an_encoded_percent_passes_where_nothing_is_denied() -> None:
    judged(b"/x%25y")


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"/A/b;c//%44%2fe/", [b"a", b"b", b"d", b"e"]),
        (b"", []),
        (b"/%ff", [b"\xff"]),
    ],
)
def test_what_the_policy_sees(path: bytes, segments: list[bytes]) -> None:
    assert judged_segments(path) == segments
