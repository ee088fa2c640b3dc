"""The pages: rows of plain text for the templates, which only lay them out.

The templates escape everything (autoescape) and hold no script; each page works with style and images alone.
"""

import io
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import urlencode

import segno
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proxy.attempts import Attempt
from proxy.control.accounts import iso
from proxy.control.cards import identity_card
from proxy.control.explanations import EXPLANATIONS, KINDS
from proxy.control.mounts import mount_row
from proxy.control.requests import CLASSES, Filter, row_of
from proxy.control.view import ControlView, IdentityStatus
from proxy.control.words import Moment, breakable, clock_words, duration_words
from proxy.grants.way_back import SIGNED_IN, UNKNOWN
from proxy.identities import Identity
from proxy.journal import Entry
from proxy.local_url import LocalUrl, local_url
from proxy.snippets import environment, snippets
from proxy.upstreams import Upstream

_STATIC = files("proxy.control").joinpath("static")
STYLE = _STATIC.joinpath("style.css").read_bytes()
SCRIPT = _STATIC.joinpath("page.js").read_bytes()


class Pages:
    """Renders each page from the view."""

    style, script = STYLE, SCRIPT

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

    def status(self, *, nonce: str, address: str, notices: Mapping[str, str]) -> str:
        """Return the status page; `address` is what was pasted, `notices` are sentences by identity."""
        now = self._view.clock.wall()
        cards = [identity_card(identity, status, now) for identity, status in self._view.identities()]
        base_url, counts = self._view.base_url(), self._view.metrics.upstreams
        return self._render(
            "status.html",
            cards=cards,
            waiting=[card.name for card in cards if not card.is_serving],
            ending=[card for card in cards if card.is_ending],
            rows=[mount_row(upstream, base_url, counts.get(upstream.name)) for upstream in self._view.upstreams()],
            datasets=self._view.datasets,
            warnings=self._view.warnings(),
            now=Moment(iso(now) or "", clock_words(now)),
            nonce=nonce,
            address=address,
            found=self._found(address),
            notices=notices,
        )

    def _found(self, address: str) -> LocalUrl | None:
        return local_url(address, self._view.upstreams(), self._view.base_url()) if address.strip() else None

    def use(self, upstream: Upstream) -> str:
        """Return the page with what to copy into each tool for one upstream, and what to try."""
        base_url = self._view.base_url()
        lines = snippets(upstream, base_url)
        return self._render(
            "use.html",
            row=mount_row(upstream, base_url, self._view.metrics.upstreams.get(upstream.name)),
            snippets=lines,
            has_flow=any("FLOW" in one.text for one in lines),
            environment=environment(self._view.upstreams(), base_url),
            mount=upstream.mount,
            path=upstream.probe or "/",
        )

    def requests(self, wanted: Filter) -> str:
        """Return the journal, newest first."""
        journal = self._view.journal
        entries = journal.entries(wanted=wanted.lets_through)
        newest = journal.news.count
        return self._render(
            "requests.html",
            is_on=journal.is_on,
            rows=[row_of(entry) for entry in reversed(entries)],
            wanted=wanted,
            upstreams=[one.name for one in self._view.upstreams()],
            classes=CLASSES,
            csv="/-/requests.csv" + (f"?{urlencode(wanted.query)}" if wanted.is_on else ""),
            stream="/-/requests/events?" + urlencode({**wanted.query, "after": newest}),
            kept=len(journal.entries()),
        )

    def request_rows(self, entries: list[Entry]) -> str:
        """Return rows of the journal for a page that is open, newest first."""
        return self._render("rows.html", rows=[row_of(entry) for entry in reversed(entries)])

    def login(
        self, identity: Identity, status: IdentityStatus, attempt: Attempt | None, *, nonce: str, notice: str
    ) -> str:
        """Return the sign-in page of one identity."""
        now = self._view.clock.wall()
        prompt = None if attempt is None else attempt.prompt
        link = None if prompt is None else prompt.verification_uri_complete or prompt.verification_uri
        return self._render(
            "login.html",
            card=identity_card(identity, status, now),
            attempt=attempt,
            link=link or (None if attempt is None else attempt.link),
            left=None if prompt is None else duration_words(prompt.expires_at - now),
            picture=None if link is None else qr_code(link),
            nonce=nonce,
            notice=notice,
        )

    def landed(self, said: str) -> str:
        """Return the page for a browser that came back from the issuer: nothing of the request comes back in it."""
        outcome = {SIGNED_IN: "well", UNKNOWN: "late"}.get(said, "ill")
        return self._render("landed.html", said=said, outcome=outcome)

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


def qr_code(link: str) -> Markup:
    """Return `link` as an SVG of dark squares, for the phone that signs in."""
    picture = io.BytesIO()
    segno.make(link, micro=False).save(
        picture, kind="svg", xmldecl=False, svgns=False, omitsize=True, border=2, svgclass="qr", lineclass="qr-line",
        title="QR code of the link",
    )  # fmt: skip
    return Markup(picture.getvalue().decode())  # noqa: S704 - squares; the link is in it as a picture alone
