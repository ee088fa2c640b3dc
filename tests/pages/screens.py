"""Every state of every page, as worlds to look at, and the server that shows one to a real browser."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import uvicorn

from proxy.attempts import Attempt, told, welcome
from proxy.clock import Clock, ManualClock
from proxy.errors import GrantRefused, SignInRequired
from proxy.events import Refused, Relayed
from proxy.forecast import Forecast
from proxy.grants.device_code import DevicePrompt
from proxy.identities import Identity
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.problems import answer
from proxy.tokens import TokenSet
from tests.poll import eventually
from tests.scripted_issuer import jwt
from tests.test_control import DOTSTAT, NOW, PROVENA, RUNNING, SIGNED_IN, SIGNED_OUT, Status, World, upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

WIDTHS = {"desk": (1280, 900), "phone": (390, 844), "small phone": (320, 568)}
WELL: list[tuple[Identity, Status]] = [(PROVENA, SIGNED_IN), (DOTSTAT, RUNNING)]
ILL: list[tuple[Identity, Status]] = [
    (PROVENA, SIGNED_OUT),
    (DOTSTAT, Status("dotstat", "misconfigured", detail="The issuer refuses the client 'stat-suite': invalid_client.")),
]
AWAY: list[tuple[Identity, Status]] = [
    (PROVENA, replace(SIGNED_IN, state="issuer-unavailable", detail="auth.example.org cannot be reached: no route.")),
    (DOTSTAT, Status("dotstat", "starting")),
]
ENDING: list[tuple[Identity, Status]] = [
    (PROVENA, replace(SIGNED_IN, forecast=Forecast("known", NOW + 540))),
    (DOTSTAT, RUNNING),
]
JANE = TokenSet(jwt(preferred_username="jane.doe"), NOW + 300, NOW, "client-tools", "device_code")
MANY = (
    upstream("provena_data", "/provena/data", identity="provena", deny=("/check-access/",), probe="/items/fetch"),
    upstream("provena_registry", "/provena/registry", identity="provena", base_path=b"/services/registry"),
    upstream("provena_auth", "/provena/auth", identity="provena", deny=tuple(
        f"/check-access/check-{right}-access" for right in ("general", "read", "write", "admin")
    )),
    upstream("dotstat_csv", "/dotstat/csv", identity="dotstat", base_path=b"/rest",
             accept="application/vnd.sdmx.data+csv"),
)  # fmt: skip
PROMPT = DevicePrompt(
    "WDJB-MJHT",
    "https://auth.example.org/auth/realms/rrap/device",
    "https://auth.example.org/auth/realms/rrap/device?user_code=WDJB-MJHT",
    NOW + 594,
)
LINK = (
    "https://auth.example.org/auth/realms/rrap/protocol/openid-connect/auth?response_type=code&client_id=client-tools"
)


def at(attempt: Attempt | None, identities: list[tuple[Identity, Status]] = ILL, **more: object) -> World:
    """Return a world in which an attempt to sign in stands as it is given."""
    world = World(identities=identities, **more)  # type: ignore[arg-type]  # a test's own mixture
    if attempt is not None:
        world.attempts._attempts["provena"] = attempt
    return world


def busy(clock: Clock | None = None) -> World:
    """Return a world whose upstreams have been answering, well and badly."""
    world = World(
        identities=WELL, journal=Journal(clock or ManualClock(NOW)), metrics=Metrics(in_flight=lambda: {"csv": 1})
    )
    for event in requests():
        world.journal(event)
        world.metrics(event)
    return world


def requests() -> list[Relayed | Refused]:
    """Return what a day brings."""
    found: list[Relayed | Refused] = []
    for number in range(40):
        seconds = 0.08 + (number * 7 % 13) * 0.03 + (1.9 if number in (11, 29) else 0.0)
        target = f"/dotstat/csv/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL?startPeriod={1990 + number}"
        found.append(Relayed("csv", "GET", target, 200, 0, 4_100 + 997 * number, seconds, token_age=17.0 + number * 6))
    long_target = "/provena/data/registry/items/fetch-dataset?handle_id=10378.1/1001&X-Amz-Signature=***"
    found += [
        Relayed("provena_data", "GET", long_target, 200, 0, 1_204, 0.212, is_replay=True, token_age=1.0),
        Relayed("provena_data", "POST", "/provena/data/upload", 413, 5_000_000, 312, 2.4, token_age=40.0),
        Relayed("csv", "GET", "/dotstat/csv/data/ALL", 200, 0, 88_000_000, 64.2, is_complete=False, token_age=250.0),
        Refused("no-upstream", 404, "GET", "/provena/dta/x", "No mount holds /provena/dta/x. Mounts: /provena/data."),
        Relayed("csv", "GET", "/dotstat/csv/data/NOTHING", 502, 0, 20, 0.4, token_age=260.0),
    ]
    return found


@dataclass(frozen=True)
class Screen:
    """One page in one state."""

    path: str
    world: Callable[[], World]
    status: int = 200


def failed(code: str, sentence: str) -> Callable[[], World]:
    return lambda: at(Attempt("failed", is_offline=False, code=code, sentence=sentence))


SCREENS: Mapping[str, Screen] = {
    "ready": Screen("/", busy),
    "many": Screen("/-/", lambda: World(identities=WELL, upstreams=MANY)),
    "fresh": Screen(
        "/", lambda: World(identities=WELL, warnings=["client_secret of [identity.dotstat] is a literal."])
    ),
    "not-ready": Screen("/-/", lambda: World(identities=ILL)),
    "issuer-away": Screen("/-/", lambda: World(identities=AWAY)),
    "ending": Screen("/-/", lambda: World(identities=ENDING)),
    "nothing-mounted": Screen("/-/", lambda: World(identities=[], upstreams=())),
    "address-fits": Screen("/-/?address=https://data.example.org/rest/data/FLOW/A.AU.%3Fx=1", busy),
    "address-fits-nowhere": Screen("/-/?address=https://elsewhere.example.org/x", busy),
    "use": Screen("/-/use/csv", busy),
    "requests": Screen("/-/requests", busy),
    "requests-filtered": Screen("/-/requests?status=own&text=nothing", busy),
    "requests-off": Screen("/-/requests", lambda: World(journal=Journal(ManualClock(NOW), length=0))),
    "sign-in": Screen("/-/login/provena", lambda: at(None)),
    "sign-in-starting": Screen("/-/login/provena", lambda: at(Attempt("starting", is_offline=False))),
    "sign-in-device": Screen("/-/login/provena", lambda: at(Attempt("waiting", is_offline=False, prompt=PROMPT))),
    "sign-in-code": Screen("/-/login/provena", lambda: at(Attempt("waiting", is_offline=False, link=LINK))),
    "sign-in-done": Screen(
        "/-/login/provena",
        lambda: at(Attempt("signed-in", is_offline=False, sentence="You are signed in as jane.doe."), WELL),
    ),
    "sign-in-denied": Screen("/-/login/provena", failed("access_denied", told(GrantRefused("access_denied"))[1])),
    "sign-in-expired": Screen("/-/login/provena", failed("expired_token", told(GrantRefused("expired_token"))[1])),
    "sign-in-other-user": Screen(
        "/-/login/provena",
        lambda: at(Attempt("signed-in", is_offline=False, sentence=welcome(JANE, "ada")), WELL),
    ),
    "sign-in-issuer-down": Screen(
        "/-/login/provena", failed("issuer-unavailable", "The issuer cannot be reached: auth.example.org: no route.")
    ),
    "signed-in": Screen("/-/login/provena", lambda: at(None, WELL)),
    "needs-nobody": Screen("/-/login/dotstat", lambda: World(identities=WELL)),
    "landed": Screen("/-/callback?state=good", lambda: World(identities=WELL)),
    "landed-late": Screen("/-/callback?state=old", lambda: World(identities=WELL), status=400),
    "failures": Screen("/-/errors/", lambda: World(identities=WELL)),
    "failure": Screen("/-/errors/bad-request", lambda: World(identities=WELL)),
    "problem": Screen("/provena/data/datasets", lambda: World(identities=ILL), status=503),
}


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[str]:
    """Serve the control plane, and a refusal of the data path on one mount, on a real socket; yields its origin."""
    listener = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    control = world.app()

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if not scope["path"].startswith("/provena"):
            await control(scope, receive, send)
            return
        refusal = SignInRequired("The sign-in of 'provena' has ended: the session is not active.", login="provena")
        given = answer(refusal, accept=dict(scope["headers"]).get(b"accept"))
        await send({"type": "http.response.start", "status": given.status, "headers": list(given.fields)})
        await send({"type": "http.response.body", "body": given.body})

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started, what="the control plane listens")
        try:
            yield origin
        finally:
            world.news.close()  # as the proxy does at its end
            world.journal.news.close()
            server.should_exit = True
