"""The command line: what to do, handed to the parts that do it. No logic of its own.

Exit statuses: 0 done · 1 failed · 2 wrong usage or configuration · 3 a person has to sign in.
"""

import gc
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from proxy import __version__
from proxy.cli.on_use import Place, group_of
from proxy.errors import BearerproxyError
from proxy.hardening import harden

COMMANDS = {
    "serve": Place("proxy.cli.serving:serve", "Example: bearerproxy serve --port 8401"),
    "run": Place(
        "proxy.cli.running:run_command",
        "Example: bearerproxy run -- Rscript model.R",
        {"allow_interspersed_args": False},  # what stands behind the command is its own
    ),
    "demo": Place("proxy.cli.tour:demo", "Example: bearerproxy demo --port 8401"),
    "init": Place(
        "proxy.cli.init:init",
        "Example: bearerproxy init --preset provena --url mds.gbrrestoration.org --issuer rrap",
    ),
    "login": Place("proxy.cli.accounts:login", "Example: bearerproxy login provena --offline"),
    "logout": Place("proxy.cli.accounts:logout", "Example: bearerproxy logout provena"),
    "status": Place("proxy.cli.accounts:status", "Example: bearerproxy status --json"),
    "token": Place(
        "proxy.cli.accounts:token", 'Example: curl -H "Authorization: Bearer $(bearerproxy token provena)" https://…'
    ),
    "health": Place("proxy.cli.health:health", "Example: bearerproxy health --ready"),
    "wait": Place("proxy.cli.waiting:wait", "Example: bearerproxy wait provena --valid-for 6h --timeout 10m"),
    "urls": Place("proxy.cli.addresses:urls", "Example: bearerproxy urls --for renviron"),
    "url": Place("proxy.cli.addresses:url", "Example: bearerproxy url https://nsi.example.org/rest/dataflow/all"),
    "check": Place("proxy.cli.configuration:check", "Example: bearerproxy check --online"),
    "doctor": Place("proxy.cli.doctor:doctor", "Example: bearerproxy doctor --json"),
    "datasets": Place("proxy.cli.dataset_commands:group"),
    "config": Place("proxy.cli.configuration:group"),
}

app = typer.Typer(
    name="bearerproxy",
    cls=group_of(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: bearerproxy demo",
)


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"bearerproxy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A local reverse proxy that signs any HTTP tool in: give the tool a base URL, it presents the bearer token."""
    harden()  # before a command reads a secret


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` (default: the process's) name, and exit with its status."""
    gc.disable()  # a sixth of the start would be looking through what is imported, which all stays; see `run`
    try:
        app(arguments, prog_name="bearerproxy")
    except BearerproxyError as error:
        from proxy.cli.terminal import report  # the console, which a server without a terminal has no use for

        sys.exit(report(error))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.enable()
