"""`init`, `urls`, `check`, `config show` and `config schema`."""

import asyncio
import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax

from proxy.app import App
from proxy.cli.terminal import FAILED, WRONG_USAGE, ConfigOption, configured, err, out, run
from proxy.config import default_path, json_schema
from proxy.errors import BearerproxyError
from proxy.events import ignore
from proxy.logs import bridge_libraries
from proxy.upstreams import Upstream

PROVENA = """\
# bearerproxy: Provena at {domain}. Every other setting: bearerproxy config schema

[provena]
domain = "{domain}"
realm = "{realm}"
"""

DOTSTAT = """\
# bearerproxy: .Stat Suite at {nsi}. Every other setting: bearerproxy config schema

[dotstat]
issuer = "{issuer}"
client_id = "{client_id}"
grant = "{grant}"{secret}
nsi = "{nsi}"
"""

_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?")


def init(
    config: ConfigOption = None,
    provena: Annotated[str | None, typer.Option(metavar="DOMAIN", help="Set up Provena at this domain.")] = None,
    realm: Annotated[str | None, typer.Option(help="Keycloak realm of that Provena.")] = None,
    dotstat: Annotated[
        str | None, typer.Option(metavar="URL", help="Set up .Stat Suite with this NSI address.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(metavar="URL", help="Issuer of that .Stat Suite.")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client at that issuer.")] = None,
    grant: Annotated[str | None, typer.Option(help="Grant of that client. Default: device_code.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration file: asks for what the options do not say."""
    path = config or default_path()
    if path.exists() and not force:
        err.print(f"{path} exists already. Edit it, or replace it with --force.", markup=False)
        raise typer.Exit(WRONG_USAGE)
    if provena is None and dotstat is None:
        kind = typer.prompt("Provena or .Stat Suite? [provena/dotstat]", default="provena")
        if kind.strip().lower().startswith("p"):
            provena = typer.prompt("Domain of your Provena", default="mds.gbrrestoration.org")
        else:
            dotstat = typer.prompt("Address of your NSI web service (https://…)")
    if provena is not None:
        realm = realm or typer.prompt("Keycloak realm", default="rrap")
        text = PROVENA.format(domain=_plain(provena, "--provena"), realm=_plain(realm, "--realm"))
        name = "provena"
    else:
        text, name = _dotstat(dotstat or "", issuer, client_id, grant), "dotstat"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_checked(path, text)
    err.print(f"Wrote [bold]{escape(str(path))}[/].")
    err.print(f"Next: [bold]bearerproxy login {name}[/], then [bold]bearerproxy serve[/].")


def _dotstat(nsi: str, issuer: str | None, client_id: str | None, grant: str | None) -> str:
    issuer = issuer or typer.prompt("Issuer (https://…/realms/NAME)")
    client_id = client_id or typer.prompt("Client", default="stat-suite")
    grant = grant or typer.prompt("Grant", default="device_code")
    secret = '\nclient_secret = "env:DOTSTAT_CLIENT_SECRET"' if grant == "client_credentials" else ""
    quoted = [json.dumps(one)[1:-1] for one in (nsi, issuer, client_id, grant)]
    return DOTSTAT.format(nsi=quoted[0], issuer=quoted[1], client_id=quoted[2], grant=quoted[3], secret=secret)


def _plain(value: str, option: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise typer.BadParameter(f"{option} takes a plain name, not {value!r}.")
    return value


def _write_checked(path: Path, text: str) -> None:
    """Write the file and read it back as `serve` would, so that a mistake shows now."""
    before = path.read_text("utf-8") if path.exists() else None
    path.write_text(text, "utf-8")
    try:
        configured(path)
    except BearerproxyError:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, "utf-8")
        raise


def check(
    config: ConfigOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Also reach every issuer and upstream, without a token.")
    ] = False,
) -> None:
    """Validate the configuration without serving; exit 2 names every mistake."""
    configuration = configured(config)
    source = configuration.source or "the environment"
    names = ", ".join(configuration.identities) or "no identity"
    counts = f"{names}; {', '.join(one.mount for one in configuration.upstreams) or 'no upstream'}"
    out.print(f"[green]ok[/]  {escape(str(source))}: {counts}", soft_wrap=True)
    if online:
        bridge_libraries(ignore)
        if not run(_reached(App(configuration, emit=ignore))):
            raise typer.Exit(FAILED)


async def _reached(app: App) -> bool:
    """Print one line for each issuer and upstream, and return whether all of them answered."""

    async def issuer(name: str) -> tuple[bool, str]:
        try:
            return True, f"{name}: issuer answers, tokens come from {await app.issuers[name].endpoint('token')}"
        except BearerproxyError as error:
            return False, f"{name}: {error}"
        finally:
            await app.issuers[name].close()

    async def upstream(one: Upstream) -> tuple[bool, str]:
        try:
            return True, f"{one.name}: {one.url} answers with {await app.probe(one)}"
        except BearerproxyError as error:
            return False, f"{one.name}: {error}"

    found = await asyncio.gather(
        *(issuer(name) for name in app.configuration.identities),
        *(upstream(one) for one in app.configuration.upstreams),
    )
    for is_good, text in found:
        out.print(f"[green]ok[/]  {escape(text)}" if is_good else f"[red]no[/]  {escape(text)}", soft_wrap=True)
    return all(is_good for is_good, _ in found)


def show(config: ConfigOption = None) -> None:
    """Print the configuration with presets expanded and secrets masked, as TOML."""
    text = configured(config).show()
    if out.is_terminal:
        out.print(Syntax(text, "toml", background_color="default"))
    else:
        typer.echo(text, nl=False)


def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(json_schema(), indent=2))
