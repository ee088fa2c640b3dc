"""What is remembered of heads is the law's own verdict: templates beside the whole law, on heads made at random."""

import random

import pytest

from proxy.errors import BadRequest
from proxy.headers import SANDBOX, Fields, for_downstream, for_upstream
from proxy.remembered import USUAL_HEAD_BYTES, USUAL_HEADS, USUAL_LINES, Names, by_names
from proxy.request import Request
from proxy.secret_refs import Secret
from proxy.transport.seam import request_head
from proxy.upstreams import Match, Upstream
from proxy.usual_heads import AnswerHeads, RequestHeads

HERE = b"http://localhost:8400"
# What hangs together stands there more often.
UP = (
    b"accept accept-language user-agent cookie connection keep-alive close te via x-a x_a %s x-http-method-override "
    b"x-forwarded-for authorization content-type content-length sec-fetch-mode if-none-match range expect upgrade "
    b"connection connection x-a x-a close"
).split()
DOWN = (
    b"Content-Type content-type Content-Length Connection Date Server ETag Set-Cookie Link Location Cache-Control "
    b"Transfer-Encoding Content-Encoding Keep-Alive %d Access-Control-Allow-Origin Proxy-Status TE Refresh b@d n\xe9 "
    b"Service-Worker-Allowed X-Bearerproxy-Key Content-Location X-A x-a Close Connection Connection X-A X-A Close"
).split()
VALUES = [
    b"", *b"a keep-alive close Close x-a x-a,close 10 %s any\x01 \xe9 */* text/html text/csv image/png".split(),
    b"text/html, */*", b"application/vnd.sdmx.data+json", b"/elsewhere", b"https://api.example.org/x",
    b"any 0", b"any token",
]  # fmt: skip
UPSTREAMS = [
    {},
    {"accept": "application/vnd.sdmx.data+csv", "accept_language": "en"},
    {"passes_cookies": True},
    {"read_only": True},
]


def upstream(**settings: object) -> Upstream:
    there: dict[str, object] = {"name": "data", "scheme": "https", "host": "api.example.org", "port": 443}
    return Upstream(**{**there, "mount": "/data", **settings})  # type: ignore[arg-type]  # a table of settings


def by_law(request: Request, match: Match, authorization: bytes | None) -> tuple[bytes, int] | str:
    try:
        fields = for_upstream(
            request.fields,
            match,
            request.method,
            authorization=authorization,
            content_length=request.content_length,
            is_chunked=request.is_chunked,
            pseudonym=b"us",
        )
        return request_head(request.method.encode(), match.target, fields)
    except BadRequest as error:
        return error.detail


def written(
    heads: RequestHeads, request: Request, match: Match, authorization: bytes | None
) -> tuple[bytes, int] | str:
    try:
        return heads.write(request, match, authorization)
    except BadRequest as error:
        return error.detail


@pytest.mark.parametrize("settings", UPSTREAMS)
def test_a_request_goes_up_as_the_law_has_it_the_first_time_and_every_other(settings: dict[str, object]) -> None:
    chance, there = random.Random(7), upstream(**settings)  # noqa: S311 - makes cases, guards nothing
    heads = RequestHeads(there, b"us")
    patterns = [chance.choices(UP, k=chance.randrange(8)) for _ in range(150)]
    for _ in range(3000):
        names = chance.choice(patterns)
        fields = [(b"host", b"localhost"), *((name, chance.choice(VALUES)) for name in names)]
        fields = [(name, b"5" if name == b"content-length" else value) for name, value in fields]
        request = Request(chance.choice(["GET", "HEAD", "POST", "DELETE"]), b"/data/x", fields, HERE)
        match = Match(there, b"/data", b"/x", chance.choice([b"", b"?format=csv", b"?a=%25"]))
        token = chance.choice([None, b"Bearer canary"])
        assert written(heads, request, match, token) == by_law(request, match, token)


@pytest.mark.parametrize("settings", UPSTREAMS)
@pytest.mark.parametrize("mount", [b"/data", b""])
def test_an_answer_comes_down_as_the_law_has_it_the_first_time_and_every_other(
    settings: dict[str, object], mount: bytes
) -> None:
    chance, there = random.Random(11), upstream(**settings)  # noqa: S311 - makes cases, guards nothing
    heads = AnswerHeads()
    patterns = [chance.choices(DOWN, k=chance.randrange(8)) for _ in range(150)]
    for _ in range(3000):
        fields: Fields = [(name, chance.choice(VALUES)) for name in chance.choice(patterns)]
        match = Match(there, mount, b"/x", b"")
        assert heads.fields(fields, match, HERE) == for_downstream(fields, match, HERE), fields


def test_a_page_of_one_answer_makes_none_of_the_next_one_with_the_same_names() -> None:
    page: Fields = [(b"Content-Type", b"text/html"), (b"Content-Length", b"1")]
    table: Fields = [(b"Content-Type", b"text/csv"), (b"Content-Length", b"1")]
    where = Match(upstream(), b"/data", b"/x", b"")
    heads = AnswerHeads()
    seen = [heads.fields(one, where, HERE) for one in (page, table, page)]
    assert [one is not None and SANDBOX in one for one in seen] == [True, False, True]


def test_an_upstreams_own_secrets_are_read_for_each_request() -> None:
    """What a mount sets from `env:` or `file:` may change while it is served."""
    there = upstream(headers=(("x-key", Secret.parse("canary", literal=True)),))
    heads = RequestHeads(there, b"us")
    request = Request("GET", b"/data/x", [(b"host", b"localhost")], HERE)
    for _ in range(2):
        assert b"x-key: canary\r\n" in heads.write(request, Match(there, b"/data", b"/x", b""), None)[0]
    assert not heads._usual


def test_what_is_remembered_of_heads_is_bounded_and_no_large_one_is() -> None:
    judged = list[Names]()
    remembered = by_names(judged.append)
    many, long = (b"x",) * (USUAL_LINES + 1), (b"x" * (USUAL_HEAD_BYTES + 1),)
    for names in (many, long, (b"short",)) * 2:
        _ = remembered[names]
    assert judged == [many, long, (b"short",), many, long]
    for number in range(3 * USUAL_HEADS):
        _ = remembered[b"%d" % number,]
        assert len(remembered) <= USUAL_HEADS
