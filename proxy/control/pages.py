"""The pages: rows of plain text for the templates, which only lay them out.

The templates escape everything (autoescape) and run no script; each page works with style and images alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from proxy.control.accounts import can_serve, iso, own_base_url
from proxy.control.explanations import EXPLANATIONS, KINDS
from proxy.control.view import ControlView, IdentityStatus
from proxy.identities import Grant, Identity
from proxy.upstreams import Upstream

STYLE = files("proxy.control").joinpath("static", "style.css").read_bytes()

_STATE_WORDS = {
    "ready": "Signed in",
    "sign-in-required": "Sign-in needed",
    "issuer-unavailable": "Issuer unreachable",
    "misconfigured": "Misconfigured",
    "starting": "Starting",
}
_GRANT_WORDS = {
    Grant.DEVICE_CODE: "Device code",
    Grant.AUTHORIZATION_CODE: "Authorization code",
    Grant.CLIENT_CREDENTIALS: "Client credentials",
    Grant.PASSWORD: "Password",
    Grant.REFRESH_TOKEN: "Refresh token",
}
_BREAKS = re.compile(r"(?<!/)/(?!/)|(?=\.[A-Za-z])")
_UNITS = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"))


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time for people and for `<time datetime>`."""

    iso: str
    words: str


@dataclass(frozen=True, slots=True)
class IdentityCard:
    """One identity, as the page shows it."""

    name: str
    state: str
    state_words: str
    is_serving: bool
    username: str | None
    is_offline: bool
    issuer: str | None
    client_id: str
    grant: str
    token: str
    token_end: Moment | None
    sign_in: str
    """`known`, `at-least`, `lasting` or `unknown`: what is known of its end; empty if there is nothing to say."""
    sign_in_end: Moment | None
    signed_in: Moment | None
    detail: str
    command: str | None
    """What to run when a person has to act."""
    error_kind: str | None
    """The page that explains the state; None while all is well."""


@dataclass(frozen=True, slots=True)
class MountRow:
    """One upstream, as the page shows it."""

    name: str
    base_url: str
    own_base_url: str | None
    curl: str
    url: str
    identity: str | None
    static_fields: tuple[str, ...]
    chips: tuple[tuple[str, str], ...]
    """(kind, text): what the policy says, in a few words each."""


class Pages:
    """Renders each page from the view."""

    def __init__(self, view: ControlView) -> None:
        self._view = view
        self._templates = Environment(
            loader=PackageLoader("proxy.control"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters["breakable"] = breakable

    def status(self) -> str:
        """Return the status page."""
        now = self._view.clock.wall()
        cards = [identity_card(identity, status, now) for identity, status in self._view.identities()]
        base_url = self._view.base_url()
        return self._render(
            "status.html",
            cards=cards,
            waiting=[card.name for card in cards if not card.is_serving],
            rows=[mount_row(upstream, base_url) for upstream in self._view.upstreams()],
            warnings=self._view.warnings(),
            now=Moment(iso(now) or "", clock_words(now)),
        )

    def login(self, identity: Identity, status: IdentityStatus) -> str:
        """Return the sign-in page of one identity."""
        return self._render("login.html", card=identity_card(identity, status, self._view.clock.wall()))

    def errors(self) -> str:
        """Return the list of our own failures."""
        return self._render("errors.html", kinds=KINDS.values(), explanations=EXPLANATIONS)

    def error(self, kind: str) -> str:
        """Return the page that explains one kind; KeyError for an unknown one."""
        return self._render("error.html", kind=KINDS[kind], explanation=EXPLANATIONS[kind])

    def _render(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(
            values, version=self._view.version, base_url=self._view.base_url()
        )


def identity_card(identity: Identity, status: IdentityStatus, now: float) -> IdentityCard:
    """Return one identity as the page shows it at `now`, seconds since the epoch."""
    return IdentityCard(
        name=identity.name,
        state=status.state,
        state_words=_state_words(identity, status),
        is_serving=can_serve(status, now),
        username=status.username,
        is_offline=status.is_offline,
        issuer=identity.issuer,
        client_id=identity.client_id,
        grant=_GRANT_WORDS[identity.grant],
        token=token_words(status, now),
        token_end=_moment(status.expires_at) if status.expires_at is not None and status.expires_at > now else None,
        sign_in=_sign_in(status, now),
        sign_in_end=None if status.forecast is None else _moment(status.forecast.ends_at, now),
        signed_in=_moment(status.signed_in_at or None, now),
        detail=status.detail or "",
        command=_command(identity, status),
        error_kind=_error_kind(status),
    )


def mount_row(upstream: Upstream, base_url: str) -> MountRow:
    """Return one upstream as the page shows it."""
    local = base_url + upstream.mount
    return MountRow(
        name=upstream.name,
        base_url=local,
        own_base_url=own_base_url(upstream),
        curl=f"curl {local}/",
        url=upstream.url,
        identity=upstream.identity,
        static_fields=tuple(name for name, _ in upstream.headers),
        chips=tuple(policy_chips(upstream)),
    )


def policy_chips(upstream: Upstream) -> Sequence[tuple[str, str]]:
    """Return (kind, text) for each rule of the upstream's policy."""
    chips = [("read-only", "read only")] if upstream.read_only else []
    if upstream.methods is not None:
        chips.append(("methods", " ".join(upstream.allowed_methods)))
    chips += [("deny", f"never {path}") for path in upstream.deny]
    if upstream.accept is not None:
        chips.append(("accept", f"default {upstream.accept}"))
    if upstream.accept_language is not None:
        chips.append(("accept", f"language {upstream.accept_language}"))
    return chips


def token_words(status: IdentityStatus, now: float) -> str:
    """Return what becomes of the access token: the newer one is fetched before the old one ends."""
    if status.expires_at is None:
        return "none"
    left = status.expires_at - now
    if left <= 0:
        return "ended"
    return f"renewed within {duration_words(left)}" if status.state == "ready" else f"ends in {duration_words(left)}"


def duration_words(seconds: float) -> str:
    """Return a duration in at most two units, rounded down: `9 h 12 min`, `4 min`, `40 s`."""
    left = int(max(seconds, 0))
    for position, (size, one, many) in enumerate(_UNITS):
        count, rest = divmod(left, size)
        if count:
            words = f"{count} {one if count == 1 else many}"
            if position + 1 < len(_UNITS) and (smaller := rest // _UNITS[position + 1][0]):
                words += f" {smaller} {_UNITS[position + 1][2]}"
            return words
    return f"{left} s"


def breakable(text: str) -> Markup:
    """Return the text as HTML in which a browser may break a long URL after a slash or before a dot.

    `<wbr>` is no character: what is copied from the page is the text itself.
    """
    return Markup(_BREAKS.sub(r"\g<0><wbr>", str(escape(text))))  # noqa: S704 - escaped on this line


def clock_words(moment: float) -> str:
    """Return the time of day in UTC, to the second."""
    return (iso(moment) or "")[11:19] + " UTC"


def _moment(moment: float | None, now: float | None = None) -> Moment | None:
    """Return the moment with its distance from `now`; the bare time of day without one."""
    stamp = iso(moment)
    if moment is None or stamp is None:
        return None
    if now is None:
        return Moment(stamp, clock_words(moment))
    distance = duration_words(abs(moment - now))
    return Moment(stamp, f"in {distance}" if moment > now else f"{distance} ago")


def _state_words(identity: Identity, status: IdentityStatus) -> str:
    if status.state == "ready" and identity.grant is Grant.CLIENT_CREDENTIALS:
        return "Ready"  # nobody signed in: the client speaks for itself (RFC 6749 4.4)
    return _STATE_WORDS.get(status.state, status.state)


def _sign_in(status: IdentityStatus, now: float) -> str:
    seen = status.forecast
    if seen is None or seen.kind == "none" or (seen.ends_at is not None and seen.ends_at <= now):
        return ""
    return "lasting" if seen.kind == "unknown" and seen.is_lasting else seen.kind


def _command(identity: Identity, status: IdentityStatus) -> str | None:
    if status.state == "sign-in-required":
        return f"bearerproxy login {identity.name}"
    return "bearerproxy check --online" if status.state == "misconfigured" else None


def _error_kind(status: IdentityStatus) -> str | None:
    kind = "identity-misconfigured" if status.state == "misconfigured" else status.state
    return kind if kind in EXPLANATIONS else None
