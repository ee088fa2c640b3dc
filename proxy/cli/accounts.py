"""`login`, `logout`, `status` and `token`."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from proxy.app import App
from proxy.cli.browser import open_page
from proxy.cli.command import FAILED, WRONG_USAGE, ConfigOption, IdentityArgument, run
from proxy.cli.handing_over import Destination, destination
from proxy.cli.local import ask
from proxy.cli.prompt import SignInPrompt
from proxy.cli.taking_over import taken_over
from proxy.cli.terminal import chosen, configured, err, out
from proxy.clock import SystemClock
from proxy.config import Configuration
from proxy.control.accounts import ends_account
from proxy.errors import GrantRefused, SecretError
from proxy.events import ignore
from proxy.forecast import forecast
from proxy.grants import REPEATABLE
from proxy.identities import Grant, Identity
from proxy.logs import bridge_libraries
from proxy.secret_refs import shown_environment
from proxy.sign_in import sign_in, was_offline_granted
from proxy.tokens import TokenSet


def login(
    identity: IdentityArgument = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask for an API token (offline_access) that outlives the day.")
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link and the code.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DEST",
            help="Also write the refresh token out, for a machine without a browser: file:PATH (0600), "
            "aws-secretsmanager:NAME[#KEY], vault:PATH#KEY, or - to print it.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take over the sign-in of another program instead: its .tokens.json, or a file with a refresh token; "
            "- reads standard input.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="With --from: which stage, if the file holds several.", show_default=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Sign in: opens the browser, shows link, code and QR code, and waits."""
    configuration = configured(config)
    who = chosen(configuration, identity, needs_person=True)
    if not who.grant.needs_person and not (who.grant is Grant.REFRESH_TOKEN and (offline or source is not None)):
        err.print(f"{who.name} needs no sign-in by a person: its grant is {who.grant.value}.")
        raise typer.Exit(WRONG_USAGE)
    if stage is not None and source is None:
        raise typer.BadParameter("--stage goes with --from.")
    handover = None if to is None else destination(to)
    app = App(configuration, emit=ignore)
    if app.store.kind == "memory":
        err.print(
            "The token store is memory, so a sign-in made here would be lost: only the page of the running proxy "
            f"({app.base_url}/) can sign in. Or set [store] kind to auto or file."
        )
        raise typer.Exit(WRONG_USAGE)
    if handover is not None:
        handover.prepare()  # before a person acts, or another program's token is spent
    try:
        if source is None:
            token_set = run(_login(app, who, offline=offline, opens_browser=not no_browser))
        else:
            token_set = taken_over(app, who, source, stage=stage, is_offline=offline)
    except GrantRefused as error:
        err.print(f"[bold red]error:[/] {escape(_refusal(error))}", soft_wrap=True)
        raise typer.Exit(FAILED) from error
    _tell(who, token_set, offline=offline)
    if handover is not None:
        _hand_over(token_set, handover)


async def _login(app: App, who: Identity, *, offline: bool, opens_browser: bool) -> TokenSet:
    environ = shown_environment(app.configuration.secret_variables)
    prompt = SignInPrompt(
        err, opens_browser=opens_browser, open_url=lambda url: open_page(url, environ), clock=SystemClock()
    )
    try:
        with prompt:
            return await sign_in(
                who,
                offline=offline,
                issuer_for=app.issuer_for,
                store=app.store,
                clock=SystemClock(),
                device_prompt=prompt.device,
                open_url=prompt.link,
            )
    finally:
        await app.store.close()


def _refusal(error: GrantRefused) -> str:
    match error.code:
        case "access_denied":
            return "The sign-in was denied in the browser. Nothing has changed."
        case "expired_token":
            return "The code ran out before somebody signed in. Run the command again."
        case "invalid_grant":
            return f"The issuer says that this sign-in is not good, or no longer: {error}. Nothing has changed."
        case _:
            return f"The issuer refuses the sign-in: {error}"


def _tell(who: Identity, token_set: TokenSet, *, offline: bool) -> None:
    name = token_set.username or "somebody"
    if token_set.is_offline:
        until = "it does not end with the session; the issuer ends it when it stays unused for long"
    elif token_set.refresh_expires_at is not None:
        until = f"kept alive while the proxy runs; unused it ends {moment(token_set.refresh_expires_at)}"
    else:
        until = "the issuer did not say until when"
    err.print(
        f"[green]Signed in[/] to [bold]{who.name}[/] as [bold]{escape(name)}[/] ({token_set.client_id}): {until}."
    )
    if offline and not was_offline_granted(token_set):
        err.print(
            f"[yellow]No offline token was given[/]: the issuer left offline_access out for client "
            f"{token_set.client_id}, so this sign-in ends with the session. Ask its operator to allow that scope."
        )


def _hand_over(token_set: TokenSet, to: Destination) -> None:
    if token_set.refresh_token is None:
        err.print("[bold red]error:[/] The issuer gave no refresh token, so there is nothing to write out.")
        raise typer.Exit(FAILED)
    try:
        to.write(token_set.refresh_token)
    except SecretError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}.", soft_wrap=True)
        err.print("The sign-in itself is made, and kept on this machine.")
        raise typer.Exit(FAILED) from error


def logout(identity: IdentityArgument = None, config: ConfigOption = None) -> None:
    """Sign out: revoke the token at the issuer and forget it here; the second part works offline too."""
    configuration = configured(config)
    who = chosen(configuration, identity, needs_person=True)
    app = App(configuration, emit=ignore)
    out.print(run(_logout(app, who)), markup=False)


async def _logout(app: App, who: Identity) -> str:
    async with app:
        return await app.sources[who.name].sign_out()


def token(identity: IdentityArgument = None, config: ConfigOption = None) -> None:
    """Print a fresh access token, for scripts; exit status 3 if a person has to sign in first."""
    configuration = configured(config)
    who = chosen(configuration, identity)
    bridge_libraries(ignore)
    token_set = run(_token(App(configuration, emit=ignore), who))
    if sys.stdout.isatty():
        err.print("[yellow]This is a secret:[/] it stays on this screen and in its history.")
    typer.echo(token_set.access_token)


async def _token(app: App, who: Identity) -> TokenSet:
    source = app.sources[who.name]
    await source.start()
    try:
        return source.current() or await source.token()
    finally:
        await source.close()
        await app.issuers[who.name].close()
        await app.store.close()


def status(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show who is signed in, as what, until when; asks the running proxy, else reads the store and says so."""
    configuration = configured(config)
    answer = ask(configuration.server, "/-/identities.json")
    if answer is not None and answer.status == 200:
        rows, source = list(answer.json()), f"the proxy running on port {configuration.server.port}"
    else:
        rows, source = run(_stored(configuration)), "the token store; no proxy is running"
    if as_json:
        typer.echo(json.dumps({"source": source, "identities": rows}, indent=2))
    else:
        _print_status(rows, source)
    if any(row["state"] == "sign-in-required" for row in rows):
        raise typer.Exit(3)


async def _stored(configuration: Configuration) -> list[dict[str, Any]]:
    app = App(configuration, emit=ignore)
    try:
        return [_row(one, await app.store.load(name)) for name, one in configuration.identities.items()]
    finally:
        await app.store.close()


def _row(identity: Identity, token_set: TokenSet | None) -> dict[str, Any]:
    name = identity.name
    seen = forecast(token_set, is_repeatable=identity.grant in REPEATABLE) if token_set else None
    is_usable = token_set is not None and (token_set.refresh_token or token_set.expires_at > SystemClock().wall())
    return {
        "name": name,
        "state": "stored" if is_usable else "sign-in-required" if identity.grant.needs_person else "not-started",
        "username": token_set.username if token_set else None,
        "issuer": identity.issuer,
        "client_id": token_set.client_id if token_set else identity.client_id,
        "grant": token_set.grant if token_set else identity.grant.value,
        "is_offline": token_set.is_offline if token_set else False,
        "expires_at": iso(token_set.expires_at) if token_set else None,
        "ends": ends_account(seen) if seen else None,
        "detail": None if is_usable or not identity.grant.needs_person else f"Run: bearerproxy login {name}",
    }


def _print_status(rows: list[dict[str, Any]], source: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("identity", "state", "who", "client", "grant", "token until", "sign-in until"):
        table.add_column(title)
    for row in rows:
        colour = "yellow" if row["state"] in ("sign-in-required", "issuer-unavailable") else "green"
        colour = "red" if row["state"] == "misconfigured" else colour
        grant = f"{row['grant']}, offline" if row["is_offline"] else row["grant"]
        ends = row["expires_at"]
        table.add_row(
            f"[bold]{row['name']}[/]",
            f"[{colour}]{row['state']}[/]",
            escape(row["username"] or "-"),
            escape(row["client_id"] or ""),
            grant,
            moment(datetime.fromisoformat(ends).timestamp()) if ends else "-",
            _until(row.get("ends")),
        )
    out.print(table)
    for row in rows:
        if row.get("detail"):
            out.print(f"{row['name']}: {row['detail']}", markup=False)
    err.print(f"[dim]From {source}.[/]")


def _until(ends: dict[str, Any] | None) -> str:
    """Return when a sign-in ends, in a few words."""
    if ends is None or ends["kind"] == "none":
        return "-"
    if ends["at"] is None:
        return "no end is told" if ends["is_offline"] else "unknown"
    shown = moment(datetime.fromisoformat(ends["at"]).timestamp())
    return shown if ends["kind"] == "known" else f"{shown} or later"


def moment(seconds: float) -> str:
    """Return a moment as people here write it: the time today, else the date too."""
    then = datetime.fromtimestamp(seconds, UTC).astimezone()
    now = datetime.fromtimestamp(SystemClock().wall(), UTC).astimezone()
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%a %d %b %H:%M}"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
