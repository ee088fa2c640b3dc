"""`run`: a command that finds every base URL in its environment, with the proxy there for as long as it takes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote

import typer

from proxy.app import App
from proxy.cli import child
from proxy.cli.calling import caller
from proxy.cli.command import FAILED, SIGN_IN_NEEDED, ConfigOption, identity_names, run
from proxy.cli.local import LocalAnswer, ask
from proxy.cli.serving import log_of
from proxy.cli.terminal import chosen, configured, err
from proxy.cli.waiting import Ask, duration, waited
from proxy.clock import SystemClock
from proxy.config import Configuration, ServerSettings
from proxy.doctor.machine import without_web_proxy
from proxy.events import Event, SignInAwaited
from proxy.logs import sentence
from proxy.secret_refs import shown_environment
from proxy.snippets import variable
from proxy.upstreams import Upstream

Call = Callable[[str, str], None]


def run_command(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run, best written behind --.")],
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="IDENTITY",
            help="Wait until this one is signed in; all of them if left out.",
            show_default=False,
            autocompletion=identity_names,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="DURATION", help="How long to wait for that.", show_default="5m")
    ] = 300.0,
    config: ConfigOption = None,
) -> None:
    """Run a command that finds each base URL in its environment; the proxy is started for it, unless one runs."""
    configuration = configured(config, {"log.level": "warning"})  # the terminal is the command's
    name = None if identity is None else chosen(configuration, identity).name
    environ = shown_environment(configuration.secret_variables)
    try:
        child.program(command[0], environ.get("PATH"))  # before anybody waits
        status = run(_run(configuration, command, name, timeout_seconds=timeout, environ=environ))
    except child.NoCommandError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        status = error.exit_status
    raise typer.Exit(status)


async def _run(
    configuration: Configuration,
    command: Sequence[str],
    name: str | None,
    *,
    timeout_seconds: float,
    environ: Mapping[str, str],
) -> int:
    async with _proxy(configuration) as server:
        asked = _calling(
            lambda path: ask(server, path), f"http://localhost:{server.port}", caller(configuration) or _nobody
        )
        verdict = await waited(
            asked,
            name,
            valid_for=None,
            timeout_seconds=timeout_seconds,
            clock=SystemClock(),
            told=lambda reason: err.print(f"waiting: {reason}", markup=False, soft_wrap=True),
        )
        if verdict.exit_status:
            err.print(f"error: {verdict.sentence}", markup=False, soft_wrap=True)
            is_for_person = any(pages_to_sign_in(await asyncio.to_thread(ask, server, "/-/ready")))
            return SIGN_IN_NEEDED if is_for_person else FAILED
        served = await asyncio.to_thread(ask, server, "/-/upstreams.json")
        if missing := _not_served(configuration.upstreams, served):
            text = f"The proxy on port {server.port} serves another configuration: it has no {', '.join(missing)}."
            err.print(f"error: {text}", markup=False, soft_wrap=True)
            return FAILED
        return await child.ended(command, environment(configuration, server, environ))


@asynccontextmanager
async def _proxy(configuration: Configuration) -> AsyncIterator[ServerSettings]:
    """Yield where a proxy answers: one that serves already and goes on, else our own, which ends with the block."""
    server = configuration.server
    alive = await asyncio.to_thread(ask, server, "/-/live")
    if alive is not None and alive.status == 200:
        yield server
        return
    log = log_of(configuration)

    def tell(event: Event) -> None:
        log(event)
        if isinstance(event, SignInAwaited):  # less than a warning, and yet nothing goes on without it
            err.print(sentence(event), markup=False, soft_wrap=True)

    app = App(configuration, emit=tell, call=caller(configuration))
    listeners = app.bind()
    stop, is_ready = asyncio.Event(), asyncio.Event()
    async with app:
        serving = asyncio.get_running_loop().create_task(app.serve(listeners, stop, ready=is_ready.set), name="serve")
        await is_ready.wait()
        try:
            yield replace(server, port=listeners[0].port or server.port)
        finally:
            stop.set()
            await serving


def environment(configuration: Configuration, server: ServerSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with each base URL, as `urls --for renviron` names them, and no web proxy before them.

    A key that callers must present stands in the URLs, as the password; `environ` holds no secret of ours.
    """
    key = "" if server.api_key is None else f"any:{quote(server.api_key.reveal(), safe='')}@"
    base = f"http://{key}localhost:{server.port}"
    excepted = without_web_proxy(environ)
    made = {variable(one): f"{base}{one.mount}" for one in configuration.upstreams}
    made |= {"no_proxy": excepted, "NO_PROXY": excepted}
    if configuration.source is not None:
        made["BEARERPROXY_CONFIG"] = str(configuration.source)
    return {**environ, **made}


def _calling(asked: Ask, base_url: str, call: Call) -> Ask:
    """Return `asked`, which from then on also shows the sign-in page of each identity that needs one, once."""
    called: set[str] = set()

    def ask_and_call(path: str) -> LocalAnswer | None:
        answer = asked(path)
        for name, page in pages_to_sign_in(answer):
            if name not in called:
                called.add(name)
                err.print(f"Sign in as {name}: {base_url}{page}", markup=False, soft_wrap=True)
                call(name, base_url + page)
        return answer

    return ask_and_call


def _nobody(_identity: str, _page: str) -> None:
    """Call nobody: there is no screen."""


def pages_to_sign_in(answer: LocalAnswer | None) -> Iterator[tuple[str, str]]:
    """Yield identity and path of the page where somebody has to sign in, from an answer of `/-/ready`."""
    if answer is None or answer.status != 503:
        return
    try:
        reasons = answer.json().get("reasons", ())
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return
    for one in reasons:
        if one["state"] == "sign-in-required":
            yield one["identity"], one["page"]


def _not_served(upstreams: Sequence[Upstream], answer: LocalAnswer | None) -> list[str]:
    """Return the upstreams that are not where we would look for them."""
    if answer is None or answer.status != 200:
        return []
    served = {(one["name"], one["mount"]) for one in answer.json()}
    return [one.name for one in upstreams if (one.name, one.mount) not in served]
