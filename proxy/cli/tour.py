"""`demo`: everything on this machine, already signed in, with the lines to try it."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from proxy.app import App
from proxy.cli.calling import caller
from proxy.cli.command import FAILED, run
from proxy.cli.serving import log_of
from proxy.cli.terminal import err, out
from proxy.clock import Clock, SystemClock
from proxy.config import load
from proxy.demo import Demo
from proxy.server import stop_on_signals
from proxy.tokens import TokenSet

PERSON, CLIENT = "ada", "client-tools"


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing to try."""

    title: str
    path: str


STOPS = (
    Stop("a CSV of Provena's data store", "/provena/data/demo/coral-cover.csv"),
    Stop("a dataset's file, by handle", "/provena/datasets/10378.1/1001/files/coral-cover.csv"),
    Stop("a dataset's record, by handle", "/provena/data/registry/items/fetch-dataset?handle_id=10378.1/1001"),
    Stop("SDMX data as CSV", "/dotstat/csv/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL?startPeriod=2018"),
    Stop("SDMX structures as XML", "/dotstat/rest/dataflow/all/all/latest"),
)


def demo(
    port: Annotated[int, typer.Option(help="Port of the proxy; 0 takes a free one.")] = 8400,
    once: Annotated[
        bool, typer.Option("--once", help="Read each printed URL once, print the answers and exit.")
    ] = False,
) -> None:
    """Run everything on this machine, with an embedded issuer and services: nothing to set up, already signed in."""
    sys.exit(run(tour(port=port, once=once)))


async def tour(*, port: int, once: bool) -> int:
    """Run the demo until Ctrl-C, or read each URL once; returns the exit status."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="bearerproxy-demo-") as folder:
        async with Demo(clock=clock) as demo, _proxy(demo, Path(folder), port, clock, is_quiet=once) as (app, stop):
            _introduce(app, Path(folder) / "demo.toml", once=once)
            if once:
                return FAILED if await asyncio.to_thread(_failed_stops, app.base_url) else 0
            stop_on_signals(stop)
            await stop.wait()
            err.print("\nThe demo has ended; nothing of it is left.")
            return 0


@asynccontextmanager
async def _proxy(
    demo: Demo, folder: Path, port: int, clock: Clock, *, is_quiet: bool
) -> AsyncIterator[tuple[App, asyncio.Event]]:
    """Serve in front of the demo, signed in as a person and as a service account."""
    table = demo.configuration(port=port, store=folder / "store")
    secret = folder / "dotstat-client-secret"
    secret.write_text(table["dotstat"]["client_secret"])
    table["dotstat"]["client_secret"] = f"file:{secret}"
    if is_quiet:
        table["log"] = {"level": "warning"}
    (folder / "demo.toml").write_text(_toml(table), "utf-8")
    # A container says in the environment where to listen; everything else of it is about the real configuration.
    environ = os.environ.items()  # noqa: TID251 - handed to load
    said = {name: value for name, value in environ if name.startswith("BEARERPROXY_SERVER__")}
    configuration = load(folder / "demo.toml", said)
    call = None if is_quiet else caller(configuration)
    app = App(configuration, emit=log_of(configuration), clock=clock, call=call)
    await app.store.save("provena", _signed_in(demo, clock))
    listeners = app.bind()
    stop, is_ready = asyncio.Event(), asyncio.Event()
    async with app:
        serving = asyncio.get_running_loop().create_task(app.serve(listeners, stop, ready=is_ready.set), name="serve")
        await is_ready.wait()
        try:
            await app.sources["dotstat"].token()  # or the page would still say "starting"
            yield app, stop
        finally:
            stop.set()
            await serving


def _signed_in(demo: Demo, clock: Clock) -> TokenSet:
    answer, now = demo.issuer.mint(CLIENT, PERSON), clock.wall()
    return TokenSet(
        access_token=answer["access_token"],
        expires_at=now + answer["expires_in"],
        obtained_at=now,
        client_id=CLIENT,
        issuer=demo.issuer_url,
        grant="device_code",
        refresh_token=answer["refresh_token"],
        refresh_expires_at=now + answer["refresh_expires_in"],
        scope=answer["scope"],
        signed_in_at=now,
        epoch=1,
    )


def _introduce(app: App, file: Path, *, once: bool) -> None:
    base = app.base_url
    out.print(
        "\n[bold]bearerproxy demo[/]  an issuer, a Provena and a .Stat Suite, all on this machine; data invented.\n"
    )
    for name, source in app.sources.items():
        status = source.status()
        who = f" as {escape(status.username)}" if status.username else ""
        colour = "green" if status.state == "ready" else "yellow"
        out.print(f"  {name}: [{colour}]{'signed in' if status.state == 'ready' else status.state}[/]{who}")
    out.print("\nThese URLs need no token; any tool can read them:\n")
    for one in STOPS:
        out.print(f"  curl '{base}{one.path}'", soft_wrap=True, markup=False)
    if once:
        return
    out.print(f"\n  R:       read.csv('{base}{STOPS[0].path}')", soft_wrap=True, markup=False)
    out.print(f"  Python:  pandas.read_csv('{base}{STOPS[0].path}')", soft_wrap=True, markup=False)
    out.print("\nSign out and in, as a person would (name and password stand on the page):\n")
    for command in ("logout", "login"):
        out.print(f"  bearerproxy {command} provena --config {file}", soft_wrap=True, markup=False)
    out.print(f"\nStatus page: {base}/   Stop with Ctrl-C.\n", soft_wrap=True, markup=False)


def _failed_stops(base: str) -> Sequence[Stop]:
    """Read each stop as curl would, print the beginning of its answer, and return those that failed."""
    failed = []
    for one in STOPS:
        status, body = _read(base + one.path)
        out.print(f"\n[bold]{one.title}[/]  {status}, {len(body)} bytes")
        for line in body.decode("utf-8", "replace").splitlines()[:4]:
            out.print(f"  {line[:100]}", markup=False, soft_wrap=True)
        if status != 200 or not body:
            failed.append(one)
    page, _ = _read(base + "/")
    out.print(f"\n[bold]the status page[/]  {page}")
    if page != 200:
        failed.append(Stop("the status page", "/"))
    return failed


def _read(url: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with contextlib.closing(opener.open(url, timeout=30)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    """Write two-level tables of strings, numbers and booleans as TOML, whose basic forms JSON shares."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)
