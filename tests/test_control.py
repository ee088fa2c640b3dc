"""The control plane: what each path says, to whom, and what it never says."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from bs4 import BeautifulSoup
from starlette.types import ASGIApp

from proxy.attempts import Attempt, Attempts, SignIn
from proxy.clock import ManualClock
from proxy.control import ControlView, OnDemand
from proxy.control.explanations import EXPLANATIONS, KINDS
from proxy.control.pages import STYLE
from proxy.control.words import breakable, duration_words
from proxy.errors import PROXY_ERRORS, GrantRefused, ProxyError
from proxy.events import Event
from proxy.forecast import Forecast
from proxy.grants.way_back import SIGNED_IN as SAID_WELL
from proxy.grants.way_back import BadCallback
from proxy.identities import Grant, Identity
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.news import News
from proxy.secret_refs import Secret
from proxy.tokens import TokenSet
from proxy.upstreams import Upstream

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC
CANARY = "canary-8f3a"
ISSUER = "https://auth.example.org/auth/realms/rrap"
EXPLAINED = tuple(f"/-/errors/{kind}" for kind in KINDS)
PAGES = (
    "/",
    "/-",
    "/-/",
    "/-/errors",
    "/-/errors/",
    *EXPLAINED,
    "/-/login/provena",
    "/-/login/dotstat",
    "/-/requests",
    "/-/use/csv",
    "/-/use/provena_data",
)
PATHS = (
    *PAGES,
    "/-/style.css",
    "/-/page.js",
    "/-/live",
    "/-/ready",
    "/-/upstreams.json",
    "/-/identities.json",
    "/-/metrics",
    "/-/requests.csv",
)


@dataclass(frozen=True)
class Status:
    """An identity's state, as its token source tells it."""

    name: str
    state: str = "ready"
    username: str | None = None
    is_offline: bool = False
    expires_at: float | None = None
    refresh_expires_at: float | None = None
    signed_in_at: float | None = None
    detail: str | None = None
    forecast: Forecast | None = None
    renewals: int = 0
    failed_renewals: Mapping[str, int] = field(default_factory=dict)
    replays: int = 0
    clock_skew: float = 0.0


def secret() -> Secret:
    return Secret.parse(CANARY, literal=True)


PROVENA = Identity(
    "provena", "client-tools", Grant.DEVICE_CODE, issuer=ISSUER, refresh_token=secret(), extra=(("audience", CANARY),)
)
DOTSTAT = Identity(
    "dotstat", "stat-suite", Grant.CLIENT_CREDENTIALS, issuer="https://sso.example.org/realms/OECD",
    client_secret=secret(), password=secret(),
)  # fmt: skip
SIGNED_IN = Status(
    "provena", username="jane.doe", expires_at=NOW + 262, refresh_expires_at=NOW + 33_140, signed_in_at=NOW - 5_400,
    forecast=Forecast("at-least", NOW + 33_140), renewals=27, failed_renewals={"issuer-unavailable": 2}, replays=1,
    clock_skew=-125.4,
)  # fmt: skip
SIGNED_OUT = Status("provena", "sign-in-required", detail="The sign-in has ended: the session is not active.")
RUNNING = Status(
    "dotstat", username="service-account-stat-suite", expires_at=NOW + 3_100, forecast=Forecast("none")
)  # fmt: skip


def upstream(name: str, mount: str, **more: Any) -> Upstream:
    return Upstream(name, "https", "data.example.org", 443, mount=mount, **more)


UPSTREAMS = (
    upstream("provena_data", "/provena/data", identity="provena", methods=frozenset({"GET", "POST"}),
             deny=("/admin/",)),
    upstream("csv", "/dotstat/csv", identity="dotstat", base_path=b"/rest", read_only=True, accept="text/csv",
             listen=("127.0.0.1", 8411)),
    upstream("keyed", "/keyed", headers=(("X-Api-Key", secret()),)),
    upstream("open", "/open", listen=("::1", 0)),
)  # fmt: skip


async def nobody_signs_in(*_: object) -> TokenSet:
    raise GrantRefused("access_denied")


@dataclass
class World:
    """What the running proxy would tell; a test changes it as it needs."""

    identities: list[tuple[Identity, Status]] = field(
        default_factory=lambda: [(PROVENA, SIGNED_IN), (DOTSTAT, RUNNING)]
    )
    upstreams: tuple[Upstream, ...] = UPSTREAMS
    warnings: list[str] = field(default_factory=list)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    journal: Journal = field(default_factory=lambda: Journal(ManualClock(NOW)))
    metrics: Metrics = field(default_factory=Metrics)
    news: News = field(default_factory=News)
    sign_in: SignIn = nobody_signs_in
    username: str | None = None
    signed_out: list[str] = field(default_factory=list)
    landed: list[str] = field(default_factory=list)
    """Queries with which browsers came back from the issuer."""
    watching: list[str] = field(default_factory=list)
    """Identities whose sign-in page is open."""
    ended: list[tuple[str, Attempt]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attempts = Attempts(
            self._begin,
            username=lambda _: self.username,
            ended=lambda name, attempt: self.ended.append((name, attempt)),
            news=self.news,
            emit=self.events.append,
        )

    async def _begin(self, *asked: Any) -> TokenSet:
        return await self.sign_in(*asked)

    async def sign_out(self, name: str) -> str:
        self.signed_out.append(name)
        return f"Signed out of '{name}', here and at the issuer."

    async def land(self, query: str) -> str:
        if "state=good" not in query:
            raise BadCallback(HTTPStatus.BAD_REQUEST)
        self.landed.append(query)
        return SAID_WELL

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        self.watching.append(name)
        try:
            yield
        finally:
            self.watching.remove(name)

    def app(self) -> ASGIApp:
        view = ControlView(
            identities=lambda: self.identities,
            upstreams=lambda: self.upstreams,
            base_url=lambda: "http://localhost:8400",
            warnings=lambda: self.warnings,
            journal=self.journal,
            metrics=self.metrics,
            attempts=self.attempts,
            land=self.land,
            sign_out=self.sign_out,
            watched=self.watched,
            news=self.news,
            clock=self.clock,
            version="0.1.0",
        )
        return OnDemand(view)

    def http(self) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.app(), raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost:8400")


async def page(world: World, path: str = "/") -> BeautifulSoup:
    async with world.http() as http:
        response = await http.get(path)
    assert response.status_code == 200
    return BeautifulSoup(response.text, "html.parser")


def said(soup: BeautifulSoup) -> str:
    """Return the text of a page as it is read, white space collapsed."""
    return " ".join(soup.get_text().split())


# Fields and methods, the same for every path


@pytest.mark.parametrize("path", [*PATHS, "/-/nothing", "/favicon.ico", "/-/errors/nothing", "/-/login/nobody"])
async def test_every_answer_is_kept_private(path: str) -> None:
    """S33."""
    async with World().http() as http:
        for accept in ("*/*", "text/html", "text/plain"):
            response = await http.get(path, headers={"Accept": accept, "Origin": "https://evil.example"})

            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "same-origin"
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            policy = response.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src '")
            assert "frame-ancestors 'none'; base-uri 'none'" in policy
            assert "unsafe" not in policy
            assert not [name for name in response.headers if name.startswith("access-control-")]
            assert len(set(response.headers)) == len(response.headers.raw), "a field is sent twice"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path in PATHS
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
        if method != "POST" or not path.startswith("/-/login/")
    ],
)
async def test_nothing_here_can_be_written(path: str, method: str) -> None:
    """S43."""
    async with World().http() as http:
        response = await http.request(method, path)

    assert response.status_code == 405
    assert response.headers["allow"] == ("GET, HEAD, POST" if path.startswith("/-/login/") else "GET, HEAD")
    assert response.json()["type"] == "/-/errors/not-allowed"
    assert not [name for name in response.headers if name.startswith(("access-control-", "dav"))]


@pytest.mark.parametrize("path", [*PATHS, "/-/nothing"])
async def test_head_answers_as_get_without_the_body(path: str) -> None:
    async with World().http() as http:
        get, head = await http.get(path), await http.head(path)

    assert head.content == b""
    assert (head.status_code, head.headers) == (get.status_code, get.headers)
    assert int(head.headers["content-length"]) == len(get.content)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("*/*", "application/problem+json"),
    ],
)
@pytest.mark.parametrize("path", ["/-/nothing", "/-/errors/nothing", "/-/live/", "/-/ready?identity=no", "/-/login/no"])
async def test_an_unknown_page_is_a_problem_in_the_asked_form(path: str, accept: str, content_type: str) -> None:
    async with World().http() as http:
        response = await http.get(path, headers={"Accept": accept})

    assert (response.status_code, response.headers["content-type"]) == (404, content_type)
    assert "destination_not_found" in response.headers["proxy-status"]


async def test_a_path_is_not_repeated_to_whoever_sent_it() -> None:
    async with World().http() as http:
        for path in (f"/-/{CANARY}", f"/-/errors/{CANARY}", f"/-/login/{CANARY}", f"/-/ready?identity={CANARY}"):
            response = await http.get(path)
            assert response.status_code == 404
            assert CANARY not in response.text + str(response.headers)


async def test_a_defect_of_ours_tells_nothing_of_itself() -> None:
    """S36."""
    world = World(identities=[(PROVENA, "not a status")])  # type: ignore[list-item]  # the defect
    async with world.http() as http:
        response = await http.get("/-/identities.json")

    assert response.status_code == 500
    assert response.json() == {
        "detail": "bearerproxy failed here; its log has the reason.",
        "title": "Something went wrong inside bearerproxy",
        "status": 500,
        "type": "/-/errors/internal",
    }
    assert "Attribute" not in response.text


# Answers for programs


async def test_live_is_live_whatever_the_identities_do() -> None:
    async with World(identities=[(PROVENA, SIGNED_OUT)]).http() as http:
        response = await http.get("/-/live")

    assert (response.status_code, response.json()) == (200, {"status": "live"})


async def test_ready_when_every_identity_can_serve() -> None:
    async with World().http() as http:
        response = await http.get("/-/ready")

    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "identities": {"provena": "ready", "dotstat": "ready"},
        "ends": {
            "provena": {"kind": "at-least", "at": "2025-06-16T00:19:00Z", "is_offline": False},
            "dotstat": {"kind": "none", "at": None, "is_offline": False},
        },
    }


async def test_ready_gives_a_reason_for_each_identity_that_cannot_serve() -> None:
    async with World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, RUNNING)]).http() as http:
        response = await http.get("/-/ready")

    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "reasons": [
            {
                "identity": "provena",
                "state": "sign-in-required",
                "detail": "The sign-in has ended: the session is not active.",
                "page": "/-/login/provena",
            }
        ],
        "identities": {"provena": "sign-in-required", "dotstat": "ready"},
        "ends": {"dotstat": {"kind": "none", "at": None, "is_offline": False}},
    }


async def test_a_sign_in_that_ends_soon_is_ready_and_says_so() -> None:
    soon = replace(SIGNED_IN, forecast=Forecast("known", NOW + 60))
    async with World(identities=[(PROVENA, soon), (DOTSTAT, RUNNING)]).http() as http:
        response = await http.get("/-/ready?identity=provena")

    assert response.status_code == 200
    assert response.json()["ends"] == {"provena": {"kind": "known", "at": "2025-06-15T15:07:40Z", "is_offline": False}}


@pytest.mark.parametrize(("name", "status"), [("dotstat", 200), ("provena", 503), ("nobody", 404), ("", 404)])
async def test_ready_for_one_identity_ignores_the_others(name: str, status: int) -> None:
    async with World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, RUNNING)]).http() as http:
        response = await http.get("/-/ready", params={"identity": name})

    assert response.status_code == status


@pytest.mark.parametrize(
    ("state", "left", "status"),
    [
        pytest.param("issuer-unavailable", 40.0, 200, id="the token at hand still works"),
        pytest.param("issuer-unavailable", -1.0, 503, id="and then it does not"),
        pytest.param("issuer-unavailable", None, 503, id="never had one"),
        pytest.param("sign-in-required", 40.0, 503, id="signed out"),
        pytest.param("misconfigured", None, 503, id="misconfigured"),
        pytest.param("starting", None, 503, id="starting"),
    ],
)
async def test_an_outage_of_the_issuer_counts_once_the_token_has_ended(
    state: str, left: float | None, status: int
) -> None:
    one = Status("provena", state, expires_at=None if left is None else NOW + left)
    async with World(identities=[(PROVENA, one)]).http() as http:
        assert (await http.get("/-/ready")).status_code == status


async def test_upstreams_json_has_what_a_program_needs_to_use_each() -> None:
    async with World().http() as http:
        first, second, keyed, opened = (await http.get("/-/upstreams.json")).json()

    assert first == {
        "name": "provena_data",
        "mount": "/provena/data",
        "base_url": "http://localhost:8400/provena/data",
        "own_base_url": None,
        "url": "https://data.example.org",
        "identity": "provena",
        "policy": {
            "read_only": False,
            "methods": ["GET", "POST"],
            "deny": ["/admin/"],
            "accept": None,
            "accept_language": None,
        },
        "answers": {"2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0},
        "broken_answers": 0,
        "replays": 0,
        "recent": [],
    }
    assert second["own_base_url"] == "http://localhost:8411"
    assert second["url"] == "https://data.example.org/rest"
    assert second["policy"]["methods"] == ["GET", "HEAD"]
    assert keyed["identity"] is None
    assert opened["own_base_url"] is None, "a port that the system chooses is not known here"


async def test_identities_json_has_names_and_times() -> None:
    async with World().http() as http:
        first, second = (await http.get("/-/identities.json")).json()

    assert first == {
        "name": "provena",
        "state": "ready",
        "username": "jane.doe",
        "issuer": ISSUER,
        "client_id": "client-tools",
        "grant": "device_code",
        "expires_at": "2025-06-15T15:11:02Z",
        "refresh_expires_at": "2025-06-16T00:19:00Z",
        "signed_in_at": "2025-06-15T13:36:40Z",
        "is_offline": False,
        "detail": None,
        "ends": {"kind": "at-least", "at": "2025-06-16T00:19:00Z", "is_offline": False},
        "renewals": 27,
        "failed_renewals": {"issuer-unavailable": 2},
        "replays": 1,
        "clock_skew_seconds": -125,
    }
    assert (second["grant"], second["refresh_expires_at"], second["signed_in_at"]) == ("client_credentials", None, None)


async def test_a_life_beyond_the_calendar_is_still_shown() -> None:
    """Issuers have sent lifetimes of centuries; the page must not fall over one."""
    endless = Status("provena", expires_at=1e300, refresh_expires_at=1e15, forecast=Forecast("known", 1e15))
    world = World(identities=[(PROVENA, endless)])
    async with world.http() as http:
        assert (await http.get("/-/identities.json")).json()[0]["expires_at"] == "9999-12-31T23:59:59Z"
        assert (await http.get("/")).status_code == 200


# Pages for people


async def test_the_page_shows_who_is_signed_in_where() -> None:
    card = (await page(World())).find(id="identity-provena")

    assert card is not None
    pairs = zip(card.find_all("dt"), card.find_all("dd"), strict=True)
    assert {term.get_text(): " ".join(shown.get_text().split()) for term, shown in pairs} == {
        "Who": "jane.doe",
        "Issuer": ISSUER,
        "Client": "client-tools",
        "Grant": "Device code",
        "Access token": "renewed within 4 min (by 15:11:02 UTC)",
        "Sign-in": "kept alive here; unused it ends in 9 h 12 min",
        "Signed in": "1 h 30 min ago",
    }
    assert [one["datetime"] for one in card.find_all("time")] == [
        "2025-06-15T15:11:02Z",
        "2025-06-16T00:19:00Z",
        "2025-06-15T13:36:40Z",
    ]


@pytest.mark.parametrize(
    ("status", "words", "command"),
    [
        (SIGNED_IN, "Signed in", None),
        (SIGNED_OUT, "Sign-in needed", "bearerproxy login provena"),
        (Status("provena", "issuer-unavailable", detail="No route."), "Issuer unreachable", None),
        (Status("provena", "misconfigured", detail="invalid_client"), "Misconfigured", "bearerproxy check --online"),
        (Status("provena", "starting"), "Starting", None),
        (Status("provena", "some-later-state"), "some-later-state", None),
    ],
)
async def test_each_state_has_its_word_and_what_to_run(status: Status, words: str, command: str | None) -> None:
    soup = await page(World(identities=[(PROVENA, status)]))
    shown = soup.select_one("#identity-provena .state")
    run = soup.select_one("#identity-provena .run code")

    assert shown is not None
    assert shown.get_text(strip=True) == words
    assert (run.get_text() if run else None) == command
    if status.detail:
        assert status.detail in said(soup)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Forecast("known", NOW + 3_000), "ends in 50 min; to go on, sign in again before"),
        (Forecast("known", NOW - 1), None),
        (Forecast("at-least", NOW + 1_800), "kept alive here; unused it ends in 30 min"),
        (Forecast("unknown", None, is_lasting=True), "outlives the session; no end is told"),
        (Forecast("unknown"), "the issuer does not say when it ends"),
        (Forecast("none"), None),
        (None, None),
    ],
)
async def test_the_page_says_when_a_sign_in_ends_as_far_as_it_is_known(
    seen: Forecast | None, words: str | None
) -> None:
    card = (await page(World(identities=[(PROVENA, replace(SIGNED_IN, forecast=seen))]))).find(id="identity-provena")

    assert card is not None
    shown = {term.get_text(): said(term.find_next_sibling("dd")) for term in card.find_all("dt")}  # type: ignore[arg-type]
    assert shown.get("Sign-in") == words


async def test_an_outage_says_whether_requests_go_on() -> None:
    away = replace(SIGNED_IN, state="issuer-unavailable", detail="No route.")
    going_on = "No route. Requests go on with the token at hand."

    assert going_on in said(await page(World(identities=[(PROVENA, away)])))
    over = replace(away, expires_at=NOW - 1)
    assert "Requests go on" not in said(await page(World(identities=[(PROVENA, over)])))


async def test_an_offline_sign_in_is_marked() -> None:
    status = Status("provena", username="jane.doe", is_offline=True, expires_at=NOW + 60)

    assert "jane.doe offline token" in said(await page(World(identities=[(PROVENA, status)])))


@pytest.mark.parametrize(
    ("world", "headline", "sentence"),
    [
        (World(), "Ready", "Give a tool one of the base URLs below and nothing else."),
        (
            World(identities=[(PROVENA, SIGNED_OUT)]),
            "Not ready",
            "provena cannot serve at the moment. Requests that need it",
        ),
        (World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, RUNNING)]), "Partly ready", "provena cannot serve"),
        (
            World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, Status("dotstat", "starting"))]),
            "Not ready",
            "provena and dotstat cannot serve at the moment. Requests that need them",
        ),
        (
            World(identities=[(PROVENA, replace(SIGNED_IN, forecast=Forecast("known", NOW + 540)))]),
            "Ready",
            "The sign-in of provena ends in 9 min. To go on, sign in again before.",
        ),
        (World(identities=[]), "Ready, without an identity", "No identity is configured"),
        (World(identities=[], upstreams=()), "Nothing is mounted yet", "bearerproxy init"),
    ],
)
async def test_the_headline_says_how_things_stand(world: World, headline: str, sentence: str) -> None:
    soup = await page(world)

    assert [one.get_text() for one in soup.find_all("h1")] == [headline]
    assert sentence in said(soup)


async def test_the_table_has_the_base_url_to_copy_and_the_policy() -> None:
    soup = await page(World())
    rows = [" ".join(row.get_text(" ").split()) for row in soup.select("tbody tr")]
    copies = [[one.get_text() for one in row.select(".copy")] for row in soup.select("tbody tr")]

    assert copies[1] == [
        "http://localhost:8400/dotstat/csv",
        "http://localhost:8411",
        "curl http://localhost:8400/dotstat/csv/",
    ]
    assert re.search("As provena Policy GET POST never / admin/ Answers none yet$", rows[0])
    assert re.search("As dotstat Policy read only default text/ csv Answers none yet$", rows[1])
    assert re.search("As own X-Api-Key Policy all methods Answers none yet$", rows[2])
    assert re.search("As nobody Policy all methods Answers none yet$", rows[3])


async def test_many_paths_that_are_never_relayed_are_folded_away() -> None:
    world = World(upstreams=(upstream("auth", "/auth", identity="provena", deny=("/one", "/two", "/three")),))
    soup = await page(world)
    folded = soup.select_one("tbody details")

    assert folded is not None
    assert said(folded).startswith("never 3 paths")  # type: ignore[arg-type]  # an element is read as a page is
    assert [one.get_text() for one in folded.select("li")] == ["/one", "/two", "/three"]


async def test_warnings_stand_on_the_page() -> None:
    assert "Worth knowing" not in said(await page(World()))
    assert "The secret is a literal." in said(await page(World(warnings=["The secret is a literal."])))


@pytest.mark.parametrize("kind", [*PROXY_ERRORS, ProxyError], ids=lambda one: one.kind)
async def test_each_failure_is_explained(kind: type[ProxyError]) -> None:
    soup = await page(World(), f"/-/errors/{kind.kind}")

    assert [one.get_text() for one in soup.find_all("h1")] == [kind.title]
    assert [one.get_text() for one in soup.find_all("h2")] == ["Likely causes", "What to do"]
    assert kind.kind in said(soup)
    assert str(kind.status) in said(soup)
    assert soup.select(".reading > ul li")
    assert soup.select(".steps > li")
    index = await page(World(), "/-/errors/")
    assert index.find("a", href=f"/-/errors/{kind.kind}") is not None


def test_no_explanation_is_left_over() -> None:
    assert set(EXPLANATIONS) == set(KINDS)


async def test_the_sign_in_page_tells_the_command() -> None:
    """S40, S43."""
    needed = await page(World(identities=[(PROVENA, SIGNED_OUT)]), "/-/login/provena")
    done = await page(World(), "/-/login/provena")

    assert [one.get_text() for one in needed.select("pre code")] == ["bearerproxy login provena"]
    assert done.select("pre code") == [], "there is nothing to do"
    assert "The sign-in has ended: the session is not active." in said(needed)
    assert "jane.doe is signed in; there is nothing to do." in said(done)


# What must never be there, and what must always be


STATES = ("ready", "sign-in-required", "issuer-unavailable", "misconfigured", "starting")


@pytest.mark.parametrize("state", STATES)
async def test_no_secret_is_on_any_page(state: str) -> None:
    """S36."""
    one, two = (Status(name, state, expires_at=NOW + 9) for name in ("provena", "dotstat"))
    async with World(identities=[(PROVENA, one), (DOTSTAT, two)]).http() as http:
        for path in PATHS:
            response = await http.get(path)
            assert CANARY not in response.text + str(response.headers.raw), path


@pytest.mark.parametrize("state", STATES)
async def test_text_from_outside_stays_text(state: str) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    identity = Identity("provena", evil, Grant.DEVICE_CODE, issuer=f"https://{evil}/")
    world = World(
        identities=[(identity, Status("provena", state, username=evil, detail=evil))],
        upstreams=(upstream("x", f"/{evil}", accept=evil, deny=(evil,)),),
        warnings=[evil],
    )
    for path in ("/", "/-/login/provena"):
        soup = await page(world, path)
        assert [one.get("src") for one in soup.find_all(["script", "img"])] == ["/-/page.js"]
        assert "<script>alert(1)</script>" in soup.get_text()


@pytest.mark.parametrize(
    "path",
    ["/", "/-/?address=x", "/-/errors/", "/-/errors/bad-request", "/-/login/provena", "/-/requests", "/-/use/csv"],
)
async def test_a_page_is_sound_for_screen_readers_and_the_policy(path: str) -> None:
    world = World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, RUNNING)], warnings=["One."])
    soup = await page(world, path)
    everything = soup.find_all(True)
    ids = [one["id"] for one in everything if one.has_attr("id")]

    assert soup.html is not None
    assert soup.html["lang"] == "en"
    assert [len(soup.find_all(landmark)) for landmark in ("header", "main", "nav", "footer")] == [1, 1, 2, 1]
    assert not soup.find_all(["style", "iframe", "object", "base"])
    assert [str(one) for one in soup.find_all("script")] == ['<script defer="" src="/-/page.js"></script>']
    assert all(str(form["action"]).startswith("/") for form in soup.find_all("form"))
    for shown in soup.select("input:not([type=hidden]), select"):
        assert soup.find("label", attrs={"for": str(shown.get("id"))}) or shown.find_parent("label")
    assert not [one for one in everything if any(name == "style" or name.startswith("on") for name in one.attrs)]
    assert len(ids) == len(set(ids))
    references = [
        one[name] for one in everything for name in ("aria-labelledby", "aria-describedby") if one.has_attr(name)
    ]
    assert set(references) <= set(ids)
    levels = [int(one.name[1]) for one in soup.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for header in soup.find_all("th"):
        assert header["scope"] in ("col", "row")


async def test_every_link_leads_somewhere() -> None:
    world = World(identities=[(PROVENA, SIGNED_OUT), (DOTSTAT, Status("dotstat", "misconfigured"))])
    async with world.http() as http:
        for path in PAGES:
            soup = BeautifulSoup((await http.get(path)).text, "html.parser")
            for link in soup.select("a[href], link[rel=stylesheet]"):
                parts = urlsplit(str(link["href"]))
                assert (parts.scheme, parts.netloc) == ("", ""), "links stay on the origin that the page came by"
                if parts.path:
                    assert (await http.get(parts.path)).status_code in (200, 503)
                else:
                    assert soup.find(id=parts.fragment) is not None


# Small parts


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (33_140, "9 h 12 min"),
        (86_400, "1 day"),
        (90_000, "1 day 1 h"),
        (86_400 * 12 + 59, "12 days"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


def test_a_long_url_may_break_where_it_reads_well() -> None:
    assert str(breakable("https://a.example/b/c?d=<1.5>")) == ("https://a<wbr>.example/<wbr>b/<wbr>c?d=&lt;1.5&gt;")


def themes() -> dict[str, dict[str, str]]:
    """Return the colours of both themes: the dark one overrides the light one."""
    light, dark = STYLE.decode().split("@media (prefers-color-scheme: dark)")
    found = {"light": dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))}
    overrides = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark.split("* {")[0]))
    return {**found, "dark": {**found["light"], **overrides}}


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        *((ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card", "well")),
        *((colour, f"{colour}-well") for colour in ("green", "amber", "red", "accent")),
        ("ink", "amber-well"),
        ("on-accent", "accent"),
    ],
)
def test_text_stands_out_from_its_ground(theme: str, ink: str, ground: str) -> None:
    """WCAG 2.2 AA asks for 4.5 : 1."""
    colours = themes()[theme]
    lighter, darker = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


async def test_json_is_indented_for_people_with_curl() -> None:
    async with World().http() as http:
        assert (await http.get("/-/live")).text == '{\n  "status": "live"\n}\n'


@pytest.mark.parametrize(("left", "is_loud"), [(3_000.0, True), (4_000.0, False)])
async def test_a_sign_in_that_ends_within_the_hour_is_shown_as_one(left: float, is_loud: bool) -> None:
    """A long calculation would outlive it: the button that renews it comes to the front."""
    soon = replace(SIGNED_IN, forecast=Forecast("known", NOW + left))
    soup = await page(World(identities=[(PROVENA, soon)]))

    button = soup.select_one('.buttons a[href="/-/login/provena"]')
    assert button is not None
    assert ("button-quiet" not in button["class"]) is is_loud
    assert (soup.select_one(".soon") is not None) is is_loud
