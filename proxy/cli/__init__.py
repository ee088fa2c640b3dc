"""The command line: what to do, handed to the parts that do it. No logic of its own.

Exit statuses: 0 done · 1 failed · 2 wrong usage or configuration · 3 a person has to sign in.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from proxy import __version__
from proxy.cli import (
    accounts,
    addresses,
    configuration,
    dataset_copies,
    dataset_credentials,
    datasets,
    deployments,
    doctor,
    init,
    running,
    serving,
    waiting,
)
from proxy.cli.terminal import report
from proxy.errors import BearerproxyError
from proxy.hardening import harden

app = typer.Typer(
    name="bearerproxy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: bearerproxy demo",
)
datasets_app = typer.Typer(no_args_is_help=True, callback=deployments.before)
config_app = typer.Typer(no_args_is_help=True, help="Show what the configuration expands to.")


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


app.command(epilog="Example: bearerproxy serve --port 8401")(serving.serve)
app.command(
    "run",
    context_settings={"allow_interspersed_args": False},  # what stands behind the command is its own
    epilog="Example: bearerproxy run -- Rscript model.R",
)(running.run_command)
app.command(epilog="Example: bearerproxy demo --port 8401")(serving.demo)
app.command(epilog="Example: bearerproxy init --preset provena --url mds.gbrrestoration.org --issuer rrap")(init.init)
app.command(epilog="Example: bearerproxy login provena --offline")(accounts.login)
app.command(epilog="Example: bearerproxy logout provena")(accounts.logout)
app.command(epilog="Example: bearerproxy status --json")(accounts.status)
app.command(epilog='Example: curl -H "Authorization: Bearer $(bearerproxy token provena)" https://…')(accounts.token)
app.command(epilog="Example: bearerproxy health --ready")(serving.health)
app.command(epilog="Example: bearerproxy wait provena --valid-for 6h --timeout 10m")(waiting.wait)
app.command(epilog="Example: bearerproxy urls --for renviron")(addresses.urls)
app.command(epilog="Example: bearerproxy url https://nsi.example.org/rest/dataflow/all")(addresses.url)
app.command(epilog="Example: bearerproxy check --online")(configuration.check)
app.command(epilog="Example: bearerproxy doctor --json")(doctor.doctor)
config_app.command(epilog="Example: bearerproxy config show")(configuration.show)
config_app.command(epilog="Example: bearerproxy config schema > proxy.schema.json")(configuration.schema)
datasets_app.command(epilog="Example: bearerproxy datasets find coral")(datasets.find)
datasets_app.command(epilog="Example: bearerproxy datasets ls 10378.1/1001")(datasets.ls)
datasets_app.command(epilog="Example: bearerproxy datasets get 10378.1/1001 --to data --include '*.csv'")(
    dataset_copies.get
)
datasets_app.command(epilog="Example: bearerproxy datasets credentials 10378.1/1001 --format env")(
    dataset_credentials.credentials
)
app.add_typer(datasets_app, name="datasets")
app.add_typer(config_app, name="config")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` (default: the process's) name, and exit with its status."""
    try:
        app(arguments, prog_name="bearerproxy")
    except BearerproxyError as error:
        sys.exit(report(error))
    except KeyboardInterrupt:
        sys.exit(130)
