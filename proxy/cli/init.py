"""`init`: four questions, each answer tried before it is written down."""

import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.request import getproxies

import typer
from rich.markup import escape

from proxy.cli.command import FAILED, WRONG_USAGE, ConfigOption, run
from proxy.cli.init_questions import Asking, Question
from proxy.cli.terminal import err
from proxy.config import Configuration, chosen_path, load
from proxy.doctor import Verdict
from proxy.doctor.machine import proxy_variables
from proxy.events import ignore
from proxy.identities import Grant
from proxy.init.answers import (
    GRANTS,
    KNOWN_DEPLOYMENT,
    Answers,
    Service,
    read_address,
    read_client,
    read_issuer,
    read_service,
)
from proxy.init.surroundings import Surroundings
from proxy.init.trials import Found, try_address, try_client, try_issuer
from proxy.init.ways import settled
from proxy.init.writing import written
from proxy.logs import bridge_libraries
from proxy.secret_refs import shown_environment
from proxy.stores.private import replace_private

_ADDRESSES = {
    Service.PROVENA: "Its domain, or any page of it?",
    Service.DOTSTAT: "The address of its NSI web service?",
    Service.OTHER: "Its address?",
}


def init(
    config: ConfigOption = None,
    preset: Annotated[
        Service | None, typer.Option(help="Which service: provena, dotstat or other.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Its address; for Provena the domain, or any page of it.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Who signs you in; for Provena the Keycloak realm will do.")
    ] = None,
    client_id: Annotated[str | None, typer.Option(metavar="NAME", help="The client that you are there.")] = None,
    grant: Annotated[
        Grant | None, typer.Option(help="How it obtains tokens; found out unless given.", show_default=False)
    ] = None,
    client_secret: Annotated[
        str | None, typer.Option(metavar="REFERENCE", help="Where its secret is kept, such as env:NAME or file:/path.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Local port. Default: 8400, if free.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Try the answers before they are written.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration file: asks for what the options do not say, and tries every answer."""
    if grant is not None and grant not in GRANTS:
        raise typer.BadParameter(f"--grant {grant} wants more than init asks; docs/configuration.md has it.")
    bridge_libraries(ignore)
    path = chosen_path(config)
    asking = Asking(is_person_there=sys.stdin.isatty() and not yes, is_trying=test)
    _may_replace(path, asking, is_forced=force)
    if asking.is_person_there:
        err.print("\n[bold]bearerproxy init[/]  four questions; Enter takes what stands in brackets.\n")
    service = asking.simple(
        Question("1  Which service: provena, dotstat (.Stat Suite) or other?", "--preset", preset, "provena"),
        read_service,
    )
    answers = Answers(service, grant=grant or Grant.DEVICE_CODE, client_secret=client_secret)
    if grant is Grant.CLIENT_CREDENTIALS and client_secret is None:
        answers = replace(answers, client_secret=f"env:{answers.name.upper()}_CLIENT_SECRET")
    answers = _asked(asking, answers, url, issuer, client_id, is_chosen=grant is not None)
    if _loaded(path, answers).server.port == answers.port:  # or the environment says another
        answers = replace(answers, port=asking.port(port))
    configuration = _loaded(path, answers)
    _write(path, written(answers))
    _say_what_is_next(path, answers, configuration.server.port, is_named=config is not None)


def _asked(
    asking: Asking, begun: Answers, url: str | None, issuer: str | None, client_id: str | None, *, is_chosen: bool
) -> Answers:
    """Return what the three questions about a service have brought."""
    environ = shown_environment(())
    around = Surroundings(environ, getproxies())
    domain, realm = KNOWN_DEPLOYMENT if begun.service is Service.PROVENA else (None, None)
    address = asking.tried(
        Question(f"2  {_ADDRESSES[begun.service]}", "--url", url, domain),
        lambda text: read_address(begun.service, text),
        lambda meanings: try_address(begun, meanings, around),
        lambda meanings: Found(replace(begun, address=meanings[0]), ""),
    )
    answers = address.answers
    what = "the Keycloak realm, or the issuer's address" if "domain" in answers.address else "the issuer's address"
    there = asking.tried(
        Question(
            f"3  Who signs you in: {what}?",
            "--issuer",
            issuer,
            realm if answers.address.get("domain") == domain else None,
        ),
        lambda text: read_issuer(answers, text),
        lambda meanings: try_issuer(answers, meanings, around),
        lambda meanings: Found(replace(answers, issuer=meanings[0]), ""),
    )
    client = asking.tried(
        Question("4  As which client?", "--client-id", client_id, answers.default_client),
        read_client,
        lambda text: try_client(
            replace(there.answers, client_id=text), there.way.network, is_chosen=is_chosen, environ=environ
        ),
        lambda text: Found(replace(there.answers, client_id=text), ""),
    )
    return run(settled(client.answers, address.way, there.way, around)) if asking.is_trying else client.answers


def _may_replace(path: Path, asking: Asking, *, is_forced: bool) -> None:
    if is_forced or not path.exists():
        return
    if asking.is_person_there and typer.confirm(f"{path} exists already. Replace it?", err=True):
        return
    err.print(f"{path} stays as it is. Edit it, or replace it with --force.", markup=False)
    raise typer.Exit(WRONG_USAGE)


def _loaded(path: Path, answers: Answers) -> Configuration:
    """Return what `serve` would make of the file, which is not there yet. Raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="bearerproxy-init-") as folder:
        draft = Path(folder) / path.name
        draft.write_text(written(answers), "utf-8")
        return load(draft)


def _write(path: Path, text: str) -> None:
    """Put the file in its place, whole. Raises typer.Exit if that cannot be."""
    target = path.resolve()  # people keep such files elsewhere, and a link to them here
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_private(target, text.encode())
    except OSError as error:
        err.print(f"[bold red]error:[/] {escape(f'{path} cannot be written: {error.strerror or error}.')}")
        raise typer.Exit(FAILED) from error


def _say_what_is_next(path: Path, answers: Answers, port: int, *, is_named: bool) -> None:
    option = f" --config {shlex.quote(str(path))}" if is_named else ""
    base = f"http://localhost:{port}{answers.mount}/"
    err.print(f"\nWrote [bold]{escape(str(path))}[/], which only you can read.\n", soft_wrap=True)
    err.print(f"Next   [bold]bearerproxy serve{escape(option)}[/]", soft_wrap=True)
    if answers.grant is Grant.CLIENT_CREDENTIALS:
        err.print(f"Then   give your tools [bold]{base}[/]", soft_wrap=True)
    else:
        err.print(f"Then   give your tools [bold]{base}[/]; the first call opens the page to sign in.", soft_wrap=True)
    finding = proxy_variables(shown_environment(()))
    if finding.verdict is Verdict.WRONG:
        err.print(f"\n[yellow]But[/]    {escape(finding.text)} {escape(finding.cure)}", soft_wrap=True)
