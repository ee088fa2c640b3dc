"""`check`, `config show` and `config schema`."""

import asyncio
import json
from typing import Annotated

import typer
from rich.markup import escape

from proxy.app import App
from proxy.cli.command import FAILED, ConfigOption, run
from proxy.cli.terminal import configured, out
from proxy.config import json_schema
from proxy.errors import BearerproxyError
from proxy.events import ignore
from proxy.logs import bridge_libraries
from proxy.upstreams import Upstream


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
        from rich.syntax import Syntax  # which brings colours for hundreds of languages

        out.print(Syntax(text, "toml", background_color="default"))
    else:
        typer.echo(text, nl=False)


def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(json_schema(), indent=2))


group = typer.Typer(
    name="config", no_args_is_help=True, help="Show what the configuration expands to.", add_completion=False
)
group.command(epilog="Example: bearerproxy config show")(show)
group.command(epilog="Example: bearerproxy config schema > proxy.schema.json")(schema)
