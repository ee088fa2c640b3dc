"""Field law in both directions, by table (RFC 9110 7.6.1; http-law H35-H54)."""

from contextlib import nullcontext

import pytest

from proxy.errors import BadRequest, UpstreamInvalid
from proxy.headers import (
    SANDBOX,
    Fields,
    first,
    for_downstream,
    for_upstream,
    has_token_in_query,
    is_document,
    masked_target,
    values,
    wants_default_accept,
)
from proxy.references import leads_astray, localized
from proxy.remembered import USUAL_NAMES, by_name
from proxy.secret_refs import Secret
from proxy.upstreams import Match, Upstream

TOKEN = b"Bearer canary"


def upstream(**settings: object) -> Upstream:
    there: dict[str, object] = {"name": "data", "scheme": "https", "host": "api.example.org", "port": 443}
    return Upstream(**{**there, "mount": "/data", **settings})  # type: ignore[arg-type]  # a table of settings


def match(there: Upstream | None = None, *, mount: bytes = b"/data", query: bytes = b"") -> Match:
    return Match(there or upstream(), mount, b"/x", query)


def sent(fields: Fields, there: Upstream | None = None, *, method: str = "GET", query: bytes = b"") -> Fields:
    return for_upstream(
        [(b"host", b"localhost:8400"), *fields],
        match(there, query=query),
        method,
        authorization=TOKEN,
        content_length=None,
        is_chunked=False,
        pseudonym=b"us",
    )


NOTHING_OF_THE_CALLER = [
    (b"host", b"api.example.org"),
    (b"via", b"1.1 us"),
    (b"authorization", TOKEN),
]


@pytest.mark.parametrize(
    "field",
    [
        (b"connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"trailer", b"x-sum"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAMAAABkAAQAAP__"),
        (b"expect", b"100-continue"),
        (b"proxy-authenticate", b"Basic"),
        (b"proxy-authorization", b"Basic eDp5"),
        (b"authorization", b"Bearer theirs"),
        (b"content-length", b"0"),
        (b"cookie", b"session=1"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-host", b"evil.example"),
        (b"x-forwarded-user", b"root"),
        (b"x-real-ip", b"1.2.3.4"),
        (b"x-original-url", b"/admin"),
        (b"x-rewrite-url", b"/admin"),
        (b"x-bearerproxy-key", b"canary-key"),
        (b"origin", b"http://localhost:3000"),
        (b"sec-fetch-site", b"same-origin"),
        (b"access-control-request-method", b"GET"),
        (b"x_authorization", b"Bearer theirs"),
        (b"x_forwarded_user", b"root"),
        (b"transfer_encoding", b"chunked"),
        (b"content_length", b"7"),
        (b"accept_", b"x"),
    ],
    ids=lambda field: field[0].decode(),
)
def test_what_never_goes_up(field: tuple[bytes, bytes]) -> None:
    """H35-H39, H41, S21, S22, A11."""
    assert sent([field]) == NOTHING_OF_THE_CALLER


def test_everything_else_goes_up_as_sent_and_in_order() -> None:
    """H43."""
    fields = [
        (b"accept", b"text/csv"),
        (b"x-range", b"values=0-9"),
        (b"accept", b"*/*;q=0.1"),
        (b"x-unknown", b"caf\xe9 \xff"),
        (b"if-none-match", b'"a"'),
        (b"range", b"bytes=0-1"),
        (b"accept-encoding", b"br"),
        (b"user-agent", b"R"),
    ]

    assert sent(fields) == [NOTHING_OF_THE_CALLER[0], *fields, *NOTHING_OF_THE_CALLER[1:]]


def test_nothing_is_invented_but_via() -> None:
    """H21, H38, H42, A27."""
    assert [name for name, _ in sent([])] == [b"host", b"via", b"authorization"]


@pytest.mark.parametrize(
    "lines",
    [
        [b"authorization, host, via, x-a"],
        [b"authorization, host", b"via, X-A"],
        [b"close", b"x_a , Authorization,via,, HOST"],
    ],
)
def test_what_connection_names_goes_but_ours_stays(lines: list[bytes]) -> None:
    """H35, S20, A9."""
    asked = [*((b"connection", line) for line in lines), (b"x-a", b"1"), (b"x-b", b"2")]

    assert sent(asked) == [NOTHING_OF_THE_CALLER[0], (b"x-b", b"2"), *NOTHING_OF_THE_CALLER[1:]]


@pytest.mark.parametrize("theirs", [[b"Bearer theirs"], [b"Basic eDp5"], [b"Bearer a", b"Bearer b"]])
def test_exactly_one_authorization_goes_up_and_it_is_ours(theirs: list[bytes]) -> None:
    """H36, S23, A10."""
    assert values(sent([(b"authorization", one) for one in theirs]), b"authorization") == [TOKEN]


def test_an_anonymous_upstream_gets_no_authorization_at_all() -> None:
    fields = for_upstream(
        [(b"authorization", b"Bearer theirs")],
        match(),
        "GET",
        authorization=None,
        content_length=None,
        is_chunked=False,
        pseudonym=b"us",
    )

    assert values(fields, b"authorization") == []


def test_via_is_appended_to_the_one_that_came() -> None:
    """H42."""
    fields = sent([(b"via", b"1.0 a"), (b"via", b"1.1 b")])

    assert values(fields, b"via") == [b"1.0 a, 1.1 b, 1.1 us"]


@pytest.mark.parametrize(
    ("content_length", "is_chunked", "framing"),
    [
        (None, False, []),
        (b"0", False, [(b"content-length", b"0")]),
        (b"7", False, [(b"content-length", b"7")]),
        (None, True, [(b"transfer-encoding", b"chunked")]),
        (b"7", True, [(b"content-length", b"7")]),
    ],
)
def test_one_framing_at_most(content_length: bytes | None, is_chunked: bool, framing: Fields) -> None:
    """H44, S19."""
    fields = for_upstream(
        [(b"content-length", b"99"), (b"transfer-encoding", b"chunked")],
        match(),
        "POST",
        authorization=None,
        content_length=content_length,
        is_chunked=is_chunked,
        pseudonym=b"us",
    )

    assert [field for field in fields if field[0] in (b"content-length", b"transfer-encoding")] == framing


@pytest.mark.parametrize("name", [b"content-type", b"content-length", b"host"])
def test_a_field_with_one_meaning_may_not_stand_there_twice(name: bytes) -> None:
    """H40."""
    with pytest.raises(BadRequest, match="more than once"):
        sent([(name, b"1"), (name, b"1")] if name != b"host" else [(name, b"other")])


def test_static_fields_replace_the_callers() -> None:
    there = upstream(headers=(("Ocp-Apim-Subscription-Key", Secret.parse("s3cret", literal=True)),))

    fields = sent([(b"ocp-apim-subscription-key", b"theirs")], there)

    assert values(fields, b"ocp-apim-subscription-key") == [b"s3cret"]


def test_accept_language_of_the_mount_always_wins() -> None:
    fields = sent([(b"accept-language", b"de")], upstream(accept_language="en"))

    assert values(fields, b"accept-language") == [b"en"]


@pytest.mark.parametrize("settings", [{"read_only": True}, {"methods": frozenset({"GET"})}])
def test_a_policy_on_methods_is_not_overridden_by_a_field(settings: dict[str, object]) -> None:
    override = [(b"x-http-method-override", b"DELETE")]

    assert sent(override, upstream(**settings)) == NOTHING_OF_THE_CALLER
    assert values(sent(override), b"x-http-method-override") == [b"DELETE"]


CSV = b"application/vnd.sdmx.data+csv"


@pytest.mark.parametrize(
    ("method", "accept", "query", "is_replaced"),
    [
        pytest.param("GET", [b"*/*"], b"", True, id="base-R-curl-wget-requests"),
        pytest.param("GET", [], b"", True, id="pandas-read_csv"),
        pytest.param("GET", [b"text/html, image/gif, image/jpeg, */*; q=0.2"], b"", True, id="Java"),
        pytest.param("GET", [b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], b"", True, id="old-Java"),
        pytest.param("GET", [b"application/json, text/xml, application/xml, */*"], b"", True, id="httr"),
        pytest.param("GET", [b"application/json, text/*, */*"], b"", True, id="jsonlite"),
        pytest.param("GET", [b"application/xml"], b"", False, id="rsdmx"),
        pytest.param("GET", [b"application/vnd.sdmx.structure+json, */*;q=0.1"], b"", False, id="names-sdmx"),
        pytest.param("GET", [b"*/*", b"application/vnd.sdmx.data+json"], b"", False, id="names-sdmx-on-a-second-line"),
        pytest.param("GET", [b"application/json"], b"", False, id="json-alone"),
        pytest.param("GET", [b"text/*"], b"", False, id="half-a-wildcard"),
        pytest.param("GET", [b""], b"", True, id="empty"),
        pytest.param("HEAD", [b"*/*"], b"", True, id="head"),
        pytest.param("POST", [b"*/*"], b"", False, id="post"),
        pytest.param("GET", [b"*/*"], b"?format=jsondata", False, id="format-first"),
        pytest.param("GET", [], b"?a=b&format=csv", False, id="format-later"),
        pytest.param("GET", [b"*/*"], b"?myformat=csv", True, id="not-format"),
    ],
)
def test_the_default_accept_stands_in_only_where_the_caller_has_no_preference(
    method: str, accept: list[bytes], query: bytes, is_replaced: bool
) -> None:
    fields = [(b"accept", line) for line in accept]
    there = upstream(accept=CSV.decode())

    assert wants_default_accept(method, fields, query) is is_replaced
    assert values(sent(fields, there, method=method, query=query), b"accept") == ([CSV] if is_replaced else accept)


# to the caller ------------------------------------------------------------------------------------------------------

HERE = b"http://localhost:8400"


def received(fields: Fields, there: Upstream | None = None) -> Fields:
    kept = for_downstream([(b"content-type", b"text/csv"), *fields], match(there), HERE)
    assert kept is not None
    return kept


BARE = [(b"content-type", b"text/csv"), (b"cache-control", b"private"), (b"x-content-type-options", b"nosniff")]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Transfer-Encoding",
        b"Trailer",
        b"Upgrade",
        b"Proxy-Authenticate",
        b"Authorization",
        b"Set-Cookie",
        b"Strict-Transport-Security",
        b"Alt-Svc",
        b"Access-Control-Allow-Origin",
        b"Access-Control-Allow-Private-Network",
        b"Proxy-Status",
        b"X-Content-Type-Options",
        b"Clear-Site-Data",
        b"Service-Worker-Allowed",
        b"Speculation-Rules",
        b"X-Bearerproxy-Key",
    ],
    ids=bytes.decode,
)
def test_what_never_comes_down(name: bytes) -> None:
    """H47, H53, S30, S31."""
    assert received([(name, b"x")]) == BARE


def test_the_rest_comes_down_as_answered_and_in_order() -> None:
    """H52, A26."""
    fields = [
        (b"date", b"Tue, 15 Nov 1994 08:12:31 GMT"),
        (b"content-length", b"7"),
        (b"content-encoding", b"br"),
        (b"vary", b"Accept"),
        (b"vary", b"Accept-Language"),
        (b"etag", b'W/"1"'),
        (b"content-range", b"bytes 0-6/99"),
        (b"allow", b"GET"),
        (b"www-authenticate", b'Bearer error="invalid_token"'),
        (b"retry-after", b"3"),
        (b"cache-control", b"max-age=60"),
        (b"content-disposition", b"attachment; filename=\xe9.csv"),
        (b"x_underscored", b"1"),
    ]

    assert received(fields) == [BARE[0], *fields, BARE[2]]


def test_what_the_upstreams_connection_names_does_not_come_down() -> None:
    """H47."""
    assert received([(b"Connection", b"close, X-Hop"), (b"X-Hop", b"1")]) == BARE


def test_a_length_beside_a_transfer_coding_does_not_come_down() -> None:
    """H48, H64."""
    assert received([(b"Content-Length", b"99"), (b"Transfer-Encoding", b"chunked")]) == BARE


@pytest.mark.parametrize("field", [(b"x", b"a\x01b"), (b"x", b"a\x7f"), (b"x", b"a\r\nb"), (b"x y", b"1"), (b"", b"1")])
def test_a_field_that_is_not_valid_condemns_the_answer(field: tuple[bytes, bytes]) -> None:
    """H51, S25."""
    assert for_downstream([field], match(), HERE) is None


@pytest.mark.parametrize(
    ("types", "is_page"),
    [
        ([b"text/html"], True),
        ([b"TEXT/HTML; charset=utf-8"], True),
        ([b" text/html"], True),
        ([b"application/xhtml+xml"], True),
        ([b"image/svg+xml"], True),
        ([b"text/xml"], True),
        ([b"application/xml;charset=utf-8"], True),
        ([b"application/vnd.sdmx.genericdata+xml;version=2.1"], True),
        ([b"text/xsl"], True),
        ([b"multipart/x-mixed-replace; boundary=a"], True),
        ([b"text/csv, text/html"], True),
        ([b"text/csv", b"text/html"], True),
        ([], True),
        ([b""], True),
        ([b"html"], True),
        ([b"text/csv"], False),
        ([b"application/json; charset=utf-8"], False),
        ([b"application/vnd.sdmx.data+csv; version=1.0.0"], False),
        ([b"image/png"], False),
        ([b"multipart/byteranges; boundary=a"], False),
        ([b"application/octet-stream"], False),
    ],
)
def test_what_a_browser_might_show_as_a_page_goes_into_the_sandbox(types: list[bytes], is_page: bool) -> None:
    fields = for_downstream([(b"content-type", one) for one in types], match(), HERE)

    assert fields is not None
    assert is_document(types) is is_page
    assert (SANDBOX in fields) is is_page
    assert first(fields, b"x-content-type-options") == b"nosniff"


def test_the_sandbox_stands_beside_the_upstreams_own_policy() -> None:
    own = (b"content-security-policy", b"default-src 'none'")

    fields = for_downstream([(b"content-type", b"text/html"), own], match(), HERE)

    assert fields is not None
    assert values(fields, b"content-security-policy") == [own[1], SANDBOX[1]]


def test_a_page_of_an_upstream_with_a_port_of_its_own_stands_outside_of_the_sandbox() -> None:
    """There it shares its origin with nothing; through the shared port it is as much a stranger as any."""
    page = [(b"content-type", b"text/html"), (b"link", b"</x.css>; rel=preload"), (b"service-worker-allowed", b"/")]
    alone, shared = (for_downstream(page, match(mount=mount), HERE) for mount in (b"", b"/data"))

    assert alone is not None
    assert shared is not None
    assert (SANDBOX in alone, SANDBOX in shared) == (False, True)
    assert (first(alone, b"service-worker-allowed"), first(shared, b"service-worker-allowed")) == (b"/", None)
    assert first(alone, b"x-content-type-options") == b"nosniff"


@pytest.mark.parametrize("acting", [(b"Refresh", b"0; url=/x"), (b"Link", b"</x>; rel=preload; as=fetch")])
def test_what_makes_a_browser_act_goes_into_the_sandbox_whatever_its_type(acting: tuple[bytes, bytes]) -> None:
    assert received([acting])[-1] == SANDBOX


# cookies ------------------------------------------------------------------------------------------------------------


def test_s31_cookies_go_up_only_where_the_upstream_says_so() -> None:
    cookies = [(b"cookie", b"a=1; b=2"), (b"cookie", b"c=3")]

    assert values(sent(cookies), b"cookie") == []
    assert values(sent(cookies, upstream(passes_cookies=True)), b"cookie") == [b"a=1; b=2", b"c=3"]


@pytest.mark.parametrize(
    ("base", "mount", "target", "set_by_upstream", "seen"),
    [
        pytest.param(b"", b"/data", b"/x", b"s=1", b"s=1; Path=/data", id="folder-of-the-request"),
        pytest.param(b"", b"/data", b"", b"s=1", b"s=1; Path=/data", id="the-mount-itself"),
        pytest.param(b"", b"/data", b"/a/b/c", b"s=1", b"s=1; Path=/data/a/b", id="a-deeper-folder"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Path=/", b"s=1; Path=/data", id="everything"),
        pytest.param(b"", b"/data", b"/x", b"s=1; path=/a", b"s=1; Path=/data/a", id="a-part"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Path=a", b"s=1; Path=/data", id="no-path"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Path=/a; Path=/b", b"s=1; Path=/data/b", id="the-last-counts"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/", b"s=1; Path=/data", id="wider-than-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/api", b"s=1; Path=/data", id="the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/api/", b"s=1; Path=/data/", id="below-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/api/v1", b"s=1; Path=/data/v1", id="a-part-of-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/apis", None, id="beside-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/ap", None, id="half-of-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1; Path=/login", None, id="outside-of-the-base"),
        pytest.param(b"/api", b"/data", b"/x", b"s=1", b"s=1; Path=/data", id="default-below-the-base"),
        pytest.param(b"/api", b"", b"/x", b"s=1; Path=/api", b"s=1; Path=/", id="a-port-of-its-own"),
        pytest.param(b"", b"", b"/a/x", b"s=1", b"s=1; Path=/a", id="a-folder-on-a-port-of-its-own"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Domain=api.example.org", b"s=1; Path=/data", id="own-domain"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Domain=.EXAMPLE.org", b"s=1; Path=/data", id="parent-domain"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Domain=", b"s=1; Path=/data", id="empty-domain"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Domain=evil.example", None, id="foreign-domain"),
        pytest.param(b"", b"/data", b"/x", b"s=1; Domain=i.example.org", None, id="half-a-label"),
        pytest.param(
            b"", b"/data", b"/x",
            b'__Host-s="a=b"; Secure; HttpOnly; SameSite=None; Partitioned; Expires=Tue, 15 Nov 1994 08:12:31 GMT',
            b'__Host-s="a=b"; HttpOnly; Expires=Tue, 15 Nov 1994 08:12:31 GMT; Path=/data', id="the-rest",
        ),
        pytest.param(b"", b"/data", b"/x", b"s=1; SameSite=Lax", b"s=1; SameSite=Lax; Path=/data", id="same-site"),
    ],
)  # fmt: skip
def test_s31_a_cookie_is_led_into_its_mount(
    base: bytes, mount: bytes, target: bytes, set_by_upstream: bytes, seen: bytes | None
) -> None:
    there = Match(upstream(base_path=base, passes_cookies=True), mount, target, b"")

    fields = for_downstream([(b"Set-Cookie", set_by_upstream)], there, HERE)

    assert fields is not None
    assert values(fields, b"set-cookie") == ([] if seen is None else [seen])


def test_s31_an_address_has_no_parent_domain() -> None:
    there = Match(upstream(host="10.0.0.1", passes_cookies=True), b"/data", b"/x", b"")

    fields = for_downstream([(b"Set-Cookie", b"s=1; Domain=0.0.1")], there, HERE)

    assert fields is not None
    assert first(fields, b"set-cookie") is None


def test_a26_several_cookies_stay_several_and_in_order() -> None:
    fields = received([(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")], upstream(passes_cookies=True))

    assert values(fields, b"set-cookie") == [b"a=1; Path=/data", b"b=2; Path=/data"]


AT_ROOT = upstream()
BELOW = upstream(base_path=b"/api/v1")
ODD_PORT = upstream(scheme="http", host="::1", port=9000)


@pytest.mark.parametrize(
    ("there", "reference", "local"),
    [
        (AT_ROOT, b"https://api.example.org/x?y#z", HERE + b"/data/x?y#z"),
        (AT_ROOT, b"HTTPS://API.example.org/X", HERE + b"/data/X"),
        (AT_ROOT, b"https://api.example.org:443/x", HERE + b"/data/x"),
        (AT_ROOT, b"https://api.example.org", HERE + b"/data/"),
        (AT_ROOT, b"https://api.example.org?x", HERE + b"/data?x"),
        (AT_ROOT, b"/x", HERE + b"/data/x"),
        (AT_ROOT, b"//api.example.org/x", HERE + b"/data/x"),
        (AT_ROOT, b"//cdn.example.org/x", b"https://cdn.example.org/x"),
        (AT_ROOT, b"x/y?z", b"x/y?z"),
        (AT_ROOT, b"?page=2", b"?page=2"),
        (AT_ROOT, b"", b""),
        (AT_ROOT, b"http://api.example.org/x", b"http://api.example.org/x"),
        (AT_ROOT, b"https://api.example.org:8443/x", b"https://api.example.org:8443/x"),
        (AT_ROOT, b"https://api.example.org.evil.example/x", b"https://api.example.org.evil.example/x"),
        (AT_ROOT, b"https://api.example.org@evil.example/x", b"https://api.example.org@evil.example/x"),
        (AT_ROOT, b"https://evil.example/https://api.example.org/x", b"https://evil.example/https://api.example.org/x"),
        (AT_ROOT, b"/x/../../dotstat/y", b"https://api.example.org/x/../../dotstat/y"),
        (AT_ROOT, b"/x?back=/../y", HERE + b"/data/x?back=/../y"),
        (AT_ROOT, b"../dotstat/y?z", HERE + b"/data/dotstat/y?z"),
        (AT_ROOT, b"%2E./%2e%2E/dotstat/", HERE + b"/data/dotstat/"),
        (AT_ROOT, b"./y#z", HERE + b"/data/y#z"),
        (AT_ROOT, b"..", HERE + b"/data/"),
        (AT_ROOT, b"..\\dotstat\\y", HERE + b"/data/dotstat/y"),
        (AT_ROOT, b"\\\\localhost:8400\\x", b"https://localhost:8400/x"),
        (AT_ROOT, b"/\t/evil.example/x", b"https://evil.example/x"),
        (AT_ROOT, b"x?back=../y", b"x?back=../y"),
        (AT_ROOT, b"urn:x:../y", b"urn:x:../y"),
        (BELOW, b"../y", b"https://api.example.org/api/y"),
        (BELOW, b"../v1/y", HERE + b"/data/y"),
        (BELOW, b"../../../../y", b"https://api.example.org/y"),
        (BELOW, b"https://api.example.org/api/v1/x", HERE + b"/data/x"),
        (BELOW, b"/api/v1/x", HERE + b"/data/x"),
        (BELOW, b"/api/v1", HERE + b"/data"),
        (BELOW, b"/api/v1?x", HERE + b"/data?x"),
        (BELOW, b"/api/v10/x", b"https://api.example.org/api/v10/x"),
        (BELOW, b"/login", b"https://api.example.org/login"),
        (BELOW, b"https://api.example.org/login", b"https://api.example.org/login"),
        (BELOW, b"/api/v1/%2e%2e/x", b"https://api.example.org/api/v1/%2e%2e/x"),
        (ODD_PORT, b"http://[::1]:9000/x", HERE + b"/data/x"),
        (ODD_PORT, b"http://[::1]/x", b"http://[::1]/x"),
    ],
)
def test_references_lead_back_only_below_the_upstreams_own_base(
    there: Upstream, reference: bytes, local: bytes
) -> None:
    """H54, S29, A29."""
    assert localized(reference, match(there), HERE) == local


def test_references_lead_to_the_root_of_an_upstreams_own_port() -> None:
    assert localized(b"/api/v1/x", match(BELOW, mount=b""), b"http://127.0.0.1:8411") == b"http://127.0.0.1:8411/x"


@pytest.mark.parametrize(
    ("location", "is_astray"),
    [
        (b"http://localhost:8400/", True),
        (b"http://localhost:8400/-/login/me", True),
        (b"http://LOCALHOST:8400/dotstat/x", True),
        (b"http://127.0.0.1:8400/dotstat/x", True),
        (b"http://127.1:8400/dotstat/x", True),
        (b"http://2130706433:8400/dotstat/x", True),
        (b"http://0.0.0.0:8400/dotstat/x", True),
        (b"http://[::1]:8400/dotstat/x", True),
        (b"http://[::ffff:127.0.0.1]:8400/dotstat/x", True),
        (b"http://me.localhost:8400/dotstat/x", True),
        (b"http://x@localhost:8400/dotstat/x", True),
        (b"http:localhost:8400/dotstat/x", True),
        (b"http:\\\\localhost:8400\\dotstat", True),
        (b"ht\ttp://localhost:8400/dotstat", True),
        (b"http://%6Cocalhost:8400/dotstat/x", True),
        ("http://\uff4cocal\xadhost:8400/dotstat/x".encode(), True),
        ("http://127\u30020\u30020\u30021:8400/dotstat/x".encode(), True),
        (b"http://localhost:008400/dotstat/x", True),
        (b"http://localhost:8400/database", True),
        (b"http://localhost:8400/data/../dotstat/x", True),
        (b"http://localhost:8400/data/x", False),
        (b"http://localhost:8400/data?x", False),
        (b"http://127.0.0.1:8400/data/x", False),
        (b"http://localhost:3000/dotstat/x", False),
        (b"https://localhost:8400/dotstat/x", False),
        (b"http://evil.example:8400/dotstat/x", False),
        ("http://\xfcber.example:8400/dotstat/x".encode(), False),
        (b"http://\xff..%ff:8400/dotstat/x", False),
        (b"http://10.0.0.1:8400/dotstat/x", False),
        (b"/x", False),
        (b"../x", False),
    ],
)
def test_a29_a_redirect_to_another_mount_or_a_page_of_ours_is_no_answer(location: bytes, is_astray: bool) -> None:
    """Followed, it would use another mount's token at this upstream's bidding (S26, S29)."""
    assert leads_astray(localized(location, match(), HERE), match(), HERE) is is_astray
    with pytest.raises(UpstreamInvalid, match="redirects to another mount") if is_astray else nullcontext():
        assert for_downstream([(b"Location", location)], match(), HERE) is not None


def test_a29_without_a_port_it_is_the_default_one_that_counts() -> None:
    assert leads_astray(b"http://127.0.0.1/dotstat", match(), b"http://proxy")
    assert leads_astray(b"http://PROXY:80/dotstat", match(), b"http://proxy")
    assert not leads_astray(b"http://127.0.0.1:8400/dotstat", match(), b"http://proxy")


@pytest.mark.parametrize(
    ("name", "value", "local"),
    [
        (b"Location", b"/api/v1/x", HERE + b"/data/x"),
        (b"Content-Location", b"/api/v1/x", HERE + b"/data/x"),
        (
            b"Link",
            b'</api/v1/a>; rel="next", <https://e.example/b>',
            b"<" + HERE + b'/data/a>; rel="next", <https://e.example/b>',
        ),
        (b"Refresh", b"5; url=/api/v1/x", b"5; url=" + HERE + b"/data/x"),
        (b"Refresh", b"0;URL='https://api.example.org/api/v1/x'", b"0;URL='" + HERE + b"/data/x'"),
        (b"Refresh", b"5", b"5"),
        (
            b"Location",
            b"https://bucket.s3.amazonaws.com/k?X-Amz-Signature=a",
            b"https://bucket.s3.amazonaws.com/k?X-Amz-Signature=a",
        ),
    ],
)
def test_which_fields_lead_back(name: bytes, value: bytes, local: bytes) -> None:
    """H54, A29."""
    assert values(received([(name, value)], BELOW), name.lower()) == [local]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a?x=1&b=c", "/a?x=1&b=c"),
        (b"/a?access_token=s3cret&x=1", "/a?access_token=***&x=1"),
        (b"/a?Access%5FToken=s3cret", "/a?Access%5FToken=***"),
        (b"/a?X-Amz-Signature=s3cret&X-Amz-Date=1", "/a?X-Amz-Signature=***&X-Amz-Date=1"),
        (b"/a?X-Amz-Security-Token=s3cret", "/a?X-Amz-Security-Token=***"),
        (b"/a?AWSAccessKeyId=s3cret;Signature=s3cret", "/a?AWSAccessKeyId=***;Signature=***"),
        (b"/a?code=s3cret&decode=1", "/a?code=***&decode=1"),
        (b"/a\r\nx\x1b[0m\xff", "/a%0D%0Ax%1B[0m%FF"),
        (b"/" + b"a" * 3000, "/" + "a" * 1999),
    ],
)
def test_targets_are_shown_without_secrets_and_control_characters(target: bytes, shown: str) -> None:
    """S24, S25, S35."""
    assert masked_target(target) == shown


@pytest.mark.parametrize(
    ("query", "has_token"),
    [
        (b"?access_token=x", True),
        (b"?a=b&access_token=x", True),
        (b"?a=b;ACCESS_TOKEN=x", True),
        (b"?access%5Ftoken=x", True),
        (b"?access_token", True),
        (b"?access_tokens=x", False),
        (b"?q=access_token", False),
        (b"?next=https%3A%2F%2Fe.example%2F%3Faccess_token%3Dx", False),
        (b"", False),
        (b"?", False),
    ],
)
def test_a_token_in_the_query_is_seen(query: bytes, has_token: bool) -> None:
    """S24."""
    assert has_token_in_query(query) is has_token


def test_what_is_remembered_of_names_is_bounded_and_no_long_name_is() -> None:
    judged = list[bytes]()

    def is_long(name: bytes) -> bool:
        judged.append(name)
        return len(name) > 8

    verdicts = by_name(is_long)
    assert [verdicts[b"short"], verdicts[b"short"], verdicts[b"long" * 50], verdicts[b"long" * 50]] == [
        False, False, True, True,
    ]  # fmt: skip
    assert judged == [b"short", b"long" * 50, b"long" * 50]
    for number in range(3 * USUAL_NAMES):
        assert not verdicts[b"%d" % number]
        assert len(verdicts) <= USUAL_NAMES
