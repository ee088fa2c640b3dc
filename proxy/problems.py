"""A failure of our own as an answer on the wire: problem+json (RFC 9457), plain text or HTML.

Pure: an error and the caller's Accept in, status, fields and body out. The form follows Accept alone, never User-Agent:
tools that sign themselves as browsers are common (Excel), browsers that do not ask for text/html are not.

What the caller sees is the error's `detail` (written for people, free of secrets by errors.py), never an exception's
text. Each value is escaped for the place where it stands.
"""

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from proxy.errors import ProxyError

HTML = "text/html"
PLAIN = "text/plain"
PROBLEM = "application/problem+json"

_CONTENT_TYPES = {HTML: b"text/html; charset=utf-8", PLAIN: b"text/plain; charset=utf-8", PROBLEM: PROBLEM.encode()}
_WEIGHT = re.compile(r"[01]|[01]?\.\d+|[01]\.")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*")
_DETAILS_LIMIT = 400
"""Characters of Proxy-Status details: some clients refuse field lines that are much longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready to be sent."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    """Field names in lower case, as ASGI wants them."""
    body: bytes


def answer(
    error: ProxyError,
    *,
    accept: bytes | None,
    base_url: str | None = "",
    proxy_name: str = "bearerproxy",
    head: bool = False,
) -> Answer:
    """Return the answer to a request that failed with `error`.

    `accept` is the value of Accept, several lines joined by commas, None if there was none. `base_url` is the origin
    of the control plane *as this caller reaches it* (a page on 127.0.0.1 that links to localhost would be refused by
    the guard as cross-site), empty for relative links, None where no page of ours can be reached. `proxy_name` names us
    in Proxy-Status. `head` leaves the body out and its length in (RFC 9110 9.3.2).
    """
    form = preferred_form(accept)
    body = {HTML: _html, PLAIN: _plain, PROBLEM: _problem}[form](error, base_url).encode()
    fields = [
        (b"content-type", _CONTENT_TYPES[form]),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"proxy-status", proxy_status(error, proxy_name)),
    ]
    if error.retry_after is not None:
        fields.append((b"retry-after", b"%d" % max(error.retry_after, 0)))
    allow = getattr(error, "allow", None)
    if isinstance(allow, str):
        fields.append((b"allow", _ascii(allow).encode()))
    if error.status == HTTPStatus.UNAUTHORIZED:
        # > A server generating a 401 response MUST send a WWW-Authenticate header field (RFC 9110 15.5.2)
        fields.append((b"www-authenticate", b'Basic realm="bearerproxy", charset="UTF-8"'))
    if form == HTML:
        fields.append((b"content-security-policy", _CSP))
    return Answer(error.status, tuple(fields), b"" if head else body)


def preferred_form(accept: bytes | None) -> str:
    """Return the media type of ours that suits `accept` (RFC 9110 12.5.1).

    HTML if it is named at all: a wildcard is no browser. Plain text if it is preferred to JSON. Otherwise problem+json,
    also where nothing fits: an answer in the wrong form is worth more than a 406 that hides the reason.
    """
    weights = _weights(accept or b"*/*")
    if weights.get(HTML, 0.0) > 0:
        return HTML
    as_json = max(_quality(weights, PROBLEM), _quality(weights, "application/json"))
    return PLAIN if _quality(weights, PLAIN) > as_json else PROBLEM


def proxy_status(error: ProxyError, proxy_name: str = "bearerproxy") -> bytes:
    """Return the value of Proxy-Status: who failed, RFC 9209's name of the failure, and the sentence, ASCII only."""
    name = proxy_name if _TOKEN.fullmatch(proxy_name) else _sf_string(proxy_name)
    return f"{name}; error={error.proxy_error}; details={_sf_string(error.detail)}".encode("ascii")


def _weights(accept: bytes) -> dict[str, float]:
    """Return the weight of each media range listed; parameters other than `q` do not matter here.

    Quoted commas are not honoured: at worst they name a type that does not exist.
    """
    weights: dict[str, float] = {}
    for element in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = (part.strip() for part in element.split(";"))
        weight = next((_weight(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
        weights[media_range] = max(weight, weights.get(media_range, 0.0))
    return weights


def _weight(text: str) -> float:
    # Java's HttpURLConnection has sent `q=.2` for decades; anything stranger is no preference we can read
    return min(float(text), 1.0) if _WEIGHT.fullmatch(text) else 0.0


def _quality(weights: dict[str, float], media_type: str) -> float:
    """Return the weight of the most specific range that fits; old Javas write `*` for `*/*`."""
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*", "*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def _problem(error: ProxyError, base_url: str | None) -> str:
    """`detail` first: it is the line that people see when a tool cuts the body short."""
    members: dict[str, str | int] = {
        "detail": _line(error.detail),
        "title": error.title,
        "status": error.status,
        "type": f"/-/errors/{error.kind}",
    }
    if error.login is not None:
        if base_url is not None:
            members["login"] = _login_url(error.login, base_url)
        members["command"] = _login_command(error.login)
    return json.dumps(members, indent=2, ensure_ascii=False) + "\n"


def _plain(error: ProxyError, base_url: str | None) -> str:
    lines = [_line(error.detail), "", f"bearerproxy: {error.title} ({error.status} {_phrase(error.status)})"]
    if error.login is not None:
        lines.append(f"Run:  {_login_command(error.login)}")
        if base_url is not None:
            lines.append(f"Or:   {_login_url(error.login, base_url)}")
    if base_url:
        lines.append(f"More: {base_url}/-/errors/{error.kind}")
    return "\n".join(lines) + "\n"


def _html(error: ProxyError, base_url: str | None) -> str:
    cure = links = ""
    if error.login is not None:
        command = f"<pre><code>{html.escape(_login_command(error.login))}</code></pre>\n"
        cure = f"<p>Run in a terminal</p>\n{command}"
        if base_url is not None:
            button = (
                f'<a class="button" href="{html.escape(_login_url(error.login, base_url))}">Open the sign-in page</a>'
            )
            cure = f"<p>{button}</p>\n<p>or run in a terminal</p>\n{command}"
    if base_url is not None:
        base = html.escape(base_url)
        links = f' <a href="{base}/-/errors/{error.kind}">What it means</a> · <a href="{base}/-/">Status</a>'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(error.title)} · bearerproxy</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<p class="status">{error.status} {html.escape(_phrase(error.status))}</p>\n'
        f"<h1>{html.escape(error.title)}</h1>\n<p>{html.escape(_line(error.detail))}</p>\n{cure}"
        '<p class="more">This answer comes from bearerproxy on its way to the service, not from the service.'
        f"{links}</p>\n"
        "</main>\n</body>\n</html>\n"
    )


def _login_url(identity: str, base_url: str) -> str:
    return f"{base_url}/-/login/{quote(_line(identity), safe='')}"


def _login_command(identity: str) -> str:
    return f"bearerproxy login {_line(identity)}"


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""


def _line(text: str) -> str:
    """Return the text on one line, without what terminals obey or UTF-8 cannot carry; callers may put it there."""
    return _CONTROL.sub(" ", text)


def _ascii(text: str) -> str:
    return _line(text).encode("ascii", "replace").decode("ascii")


def _sf_string(text: str) -> str:
    """Return an sf-string (RFC 8941 3.3.3): printable ASCII in quotes, `"` and the backslash escaped."""
    shown = _ascii(text)
    if len(shown) > _DETAILS_LIMIT:
        shown = shown[: _DETAILS_LIMIT - 3] + "..."
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


# The page stands on mounts and on upstreams' own ports, where no style sheet of ours can be reached: it carries its
# style, and the policy names that style by its hash.
_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#566174;--line:#dde2ea;
--accent:#0b62a8;--on:#fff}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1a2028;--ink:#e6eaf0;--soft:#a3afbf;--line:#303947;
--accent:#7cbcf5;--on:#0d1520}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.25rem;background:var(--page);color:var(--ink);
font:1.0625rem/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{width:100%;max-width:38rem;padding:clamp(1.5rem,5vw,2.75rem);background:var(--card);border:1px solid var(--line);
border-radius:14px;overflow-wrap:anywhere}
h1{margin:0 0 .75rem;font-size:1.625rem;line-height:1.25;letter-spacing:-.015em;text-wrap:balance}
p{margin:0 0 1rem}.status{margin:0 0 .25rem;color:var(--soft);font-size:.9375rem}
.more{margin:1.75rem 0 0;padding-top:1.25rem;border-top:1px solid var(--line);color:var(--soft);font-size:.9375rem}
a{color:var(--accent);text-underline-offset:.18em}:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.button{display:inline-block;padding:.6rem 1.1rem;border-radius:8px;background:var(--accent);color:var(--on);
font-weight:600;text-decoration:none}
pre{margin:0;padding:.7rem .9rem;background:var(--page);border:1px solid var(--line);border-radius:8px;
white-space:pre-wrap}
code{font:.9375rem/1.5 ui-monospace,"Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;user-select:all}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
_CSP = (
    b"default-src 'none'; style-src 'sha256-" + _STYLE_HASH + b"'; img-src data:; form-action 'none'; "
    b"frame-ancestors 'none'; base-uri 'none'"
)
