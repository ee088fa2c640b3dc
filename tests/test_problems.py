"""A failure of our own as an answer: the form by Accept, the fields, and nothing that should not be there."""

import json
import re
from html.parser import HTMLParser

import pytest

from proxy.errors import (
    PROXY_ERRORS,
    BadRequest,
    KeyRequired,
    NotAllowed,
    Overloaded,
    ProxyError,
    SignInRequired,
    UpstreamTimeout,
)
from proxy.problems import HTML, PLAIN, PROBLEM, Answer, answer, preferred_form, proxy_status

SIGN_IN = SignInRequired("The sign-in of 'provena' has ended; run bearerproxy login provena.", login="provena")


def field(given: Answer, name: bytes) -> bytes | None:
    values = [value for one, value in given.fields if one == name]
    assert len(values) <= 1, f"{name!r} is sent twice"
    return values[0] if values else None


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        pytest.param(None, PROBLEM, id="no Accept (pandas)"),
        pytest.param(b"", PROBLEM, id="empty Accept"),
        pytest.param(b"*/*", PROBLEM, id="curl and base R"),
        pytest.param(b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML, id="a browser"),
        pytest.param(b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", HTML, id="Java"),
        pytest.param(b"TEXT/HTML;charset=utf-8", HTML, id="names are case-insensitive"),
        pytest.param(b"application/json, text/html;q=0.1", HTML, id="named is enough"),
        pytest.param(b"text/html;q=0, */*", PROBLEM, id="named to be refused"),
        pytest.param(b"text/html;q=0.000, text/plain", PLAIN, id="refused, plain text left"),
        pytest.param(b"text/html;q=nan, text/plain;q=1e3", PROBLEM, id="unreadable weights count nothing"),
        pytest.param(b"application/json, text/xml, application/xml, */*", PROBLEM, id="httr"),
        pytest.param(b"application/json, text/*, */*", PROBLEM, id="jsonlite"),
        pytest.param(b"text/plain", PLAIN, id="plain text alone"),
        pytest.param(b"text/*", PLAIN, id="any text"),
        pytest.param(b"text/plain, application/json", PROBLEM, id="a draw goes to JSON"),
        pytest.param(b"text/plain, application/json;q=0.9", PLAIN, id="plain text preferred"),
        pytest.param(b"text/plain;q=0.5, application/problem+json", PROBLEM, id="problem+json preferred"),
        pytest.param(b"text/plain;q=0.5, */*;q=0.1", PLAIN, id="the specific range wins"),
        pytest.param(b"text/plain;q=0.2, text/*;q=0.9, application/*;q=0.5", PROBLEM, id="specific before partial"),
        pytest.param(b"application/xml", PROBLEM, id="rsdmx: nothing fits"),
        pytest.param(b"text/csv", PROBLEM, id="CSV only: nothing fits"),
        pytest.param(b"text/htmlx, text/html-fragment", PROBLEM, id="names are compared whole"),
        pytest.param(b'application/json;x="a, text/html"', PROBLEM, id="a quoted comma names nothing"),
        pytest.param(b"\xff\xfe;;;,,,=", PROBLEM, id="rubbish"),
    ],
)
def test_the_form_follows_accept(accept: bytes | None, form: str) -> None:
    assert preferred_form(accept) == form
    sent = field(answer(SIGN_IN, accept=accept), b"content-type")
    assert sent is not None
    assert sent.split(b";")[0] == form.encode()


def test_a_problem_starts_with_the_detail_and_names_the_way_out() -> None:
    given = answer(SIGN_IN, accept=None, base_url="http://localhost:8400")

    assert given.status == 503
    assert given.body.startswith(b'{\n  "detail": "The sign-in of ')
    assert list(json.loads(given.body)) == ["detail", "title", "status", "type", "login", "command"]
    assert json.loads(given.body) == {
        "detail": "The sign-in of 'provena' has ended; run bearerproxy login provena.",
        "title": "Sign-in needed",
        "status": 503,
        "type": "/-/errors/sign-in-required",
        "login": "http://localhost:8400/-/login/provena",
        "command": "bearerproxy login provena",
    }


def test_where_signing_in_does_not_help_no_link_is_offered() -> None:
    for accept in (b"*/*", b"text/plain", b"text/html"):
        assert b"login" not in answer(UpstreamTimeout("Nothing came for 1800 s."), accept=accept).body


def test_plain_text_says_the_same_in_lines() -> None:
    given = answer(SIGN_IN, accept=b"text/plain", base_url="http://localhost:8400")

    assert given.body.decode().splitlines() == [
        "The sign-in of 'provena' has ended; run bearerproxy login provena.",
        "",
        "bearerproxy: Sign-in needed (503 Service Unavailable)",
        "Run:  bearerproxy login provena",
        "Or:   http://localhost:8400/-/login/provena",
        "More: http://localhost:8400/-/errors/sign-in-required",
    ]


def test_every_answer_says_that_it_is_ours_and_is_kept_nowhere() -> None:
    """S33, S36."""
    kinds: tuple[type[ProxyError], ...] = (*PROXY_ERRORS, ProxyError)
    for kind in kinds:
        for accept in (b"*/*", b"text/plain", b"text/html"):
            given = answer(kind("One sentence."), accept=accept)

            assert field(given, b"cache-control") == b"no-store"
            assert field(given, b"x-content-type-options") == b"nosniff"
            assert field(given, b"content-length") == str(len(given.body)).encode()
            assert field(given, b"proxy-status") == (
                f'bearerproxy; error={kind.proxy_error}; details="One sentence."'.encode()
            )
            assert not any(name.startswith(b"access-control-") for name, _ in given.fields)


def test_head_has_the_length_of_the_body_that_it_leaves_out() -> None:
    whole, head = answer(SIGN_IN, accept=None), answer(SIGN_IN, accept=None, head=True)

    assert head.body == b""
    assert head.fields == whole.fields


def test_a_forbidden_method_comes_with_allow_and_a_forbidden_path_without() -> None:
    assert field(answer(NotAllowed("No.", allow="GET, HEAD"), accept=None), b"allow") == b"GET, HEAD"
    assert answer(NotAllowed("No.", allow="GET, HEAD"), accept=None).status == 405
    assert field(answer(NotAllowed("No."), accept=None), b"allow") is None
    assert answer(NotAllowed("No."), accept=None).status == 403


def test_retry_after_is_sent_only_where_it_is_known() -> None:
    assert field(answer(Overloaded("Full.", retry_after=7), accept=None), b"retry-after") == b"7"
    assert field(answer(Overloaded("Full."), accept=None), b"retry-after") is None


def test_a_401_of_ours_names_its_scheme() -> None:
    error = KeyRequired("Sign in with the API key as the password.")
    assert field(answer(error, accept=b"text/html"), b"www-authenticate") is None
    error.status = 401

    assert (
        field(answer(error, accept=b"text/html"), b"www-authenticate") == b'Basic realm="bearerproxy", charset="UTF-8"'
    )


def test_a_sharper_status_is_the_one_that_is_sent() -> None:
    given = answer(BadRequest("The target is too long.", status=414), accept=None)

    assert (given.status, json.loads(given.body)["status"]) == (414, 414)


def test_proxy_status_is_ascii_with_quotes_escaped() -> None:
    error = UpstreamTimeout('Zu spät: "a\\b"\r\nSet-Cookie: x=1 € \x1b[31m')

    assert proxy_status(error) == (
        rb"bearerproxy; error=http_response_timeout; "
        rb'details="Zu sp?t: \"a\\b\" Set-Cookie: x=1 ?  [31m"'
    )
    assert proxy_status(UpstreamTimeout("x"), 'my "proxy"').startswith(rb'"my \"proxy\""; error=')
    assert len(proxy_status(UpstreamTimeout("x" * 10_000))) < 500


HOSTILE = "</style><script>alert(1)</script>\"'&\x1b[2J\r\nX-A: b\u2028\ud800"


def test_hostile_text_stays_text_in_every_form() -> None:
    """S36."""
    error = SignInRequired(HOSTILE, login=HOSTILE)

    page = answer(error, accept=b"text/html", base_url='http://localhost:8400"><script>').body.decode()
    assert "<script" not in page
    assert page.count("</style>") == 1
    for accept in (b"text/html", b"text/plain", b"*/*"):
        given = answer(error, accept=accept)
        assert b"\x1b" not in given.body
        assert b"\r" not in given.body
        assert not any(re.search(rb"[\x00-\x1f\x7f-\xff]", value) for _, value in given.fields)
    assert json.loads(answer(error, accept=None).body)["login"].startswith("/-/login/%3C%2Fstyle%3E")


class Resources(HTMLParser):
    """Collects what a page would make a browser fetch, run or style itself with."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "style", "action")]
        self.found += [tag] if tag in ("script", "iframe", "form", "img") else []


def test_the_page_needs_nothing_but_itself() -> None:
    """It also stands on an upstream's own port, where no style sheet of ours can be reached."""
    given = answer(SIGN_IN, accept=b"text/html", base_url="http://localhost:8400")
    resources = Resources()
    resources.feed(given.body.decode())

    assert resources.found == []
    policy = field(given, b"content-security-policy")
    assert policy is not None
    assert policy.startswith(b"default-src 'none'; style-src 'sha256-")
    assert b"unsafe" not in policy
    assert b'href="http://localhost:8400/-/login/provena"' in given.body


def test_no_exception_text_of_a_cause_is_shown() -> None:
    """S36."""

    def fails() -> None:
        try:
            raise OSError("canary-cause")  # noqa: TRY301 - the chain is what is tested
        except OSError as exc:
            raise UpstreamTimeout("Nothing came in time.") from exc

    with pytest.raises(UpstreamTimeout) as caught:
        fails()
    for accept in (b"text/html", b"text/plain", b"*/*"):
        given = answer(caught.value, accept=accept)
        assert b"canary" not in given.body + b"".join(value for _, value in given.fields)


def test_kinds_are_one_each() -> None:
    assert len({kind.kind for kind in PROXY_ERRORS}) == len(PROXY_ERRORS)
