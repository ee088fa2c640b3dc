"""`doctor`: what is wrong here, and what to do about it."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from proxy.app import App
from proxy.cli.command import FAILED, ConfigOption, run
from proxy.cli.local import ask
from proxy.cli.terminal import err, out
from proxy.config import Configuration, load
from proxy.doctor import Finding, Verdict, examine
from proxy.events import ignore
from proxy.logs import bridge_libraries
from proxy.secret_refs import shown_environment

_MARKS = {Verdict.OK: "[green]ok[/]   ", Verdict.NOTE: "[cyan]note[/] ", Verdict.WRONG: "[red]wrong[/]"}


def doctor(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Look for what is wrong, from the clock to a call to each service with your token; status 1 if something is."""
    configuration = load(config)  # its warnings are findings
    bridge_libraries(ignore)
    findings = run(_examined(configuration, is_told=not as_json))
    wrong = [one for one in findings if one.verdict is Verdict.WRONG]
    if as_json:
        typer.echo(json.dumps({"healthy": not wrong, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        err.print(_summary(findings, wrong), markup=False)
    if wrong:
        raise typer.Exit(FAILED)


async def _examined(configuration: Configuration, *, is_told: bool) -> list[Finding]:
    alive = ask(configuration.server, "/-/live")
    app = App(configuration, emit=ignore)
    environ = shown_environment(configuration.secret_variables)
    findings = []
    try:
        async for finding in examine(app, environ, is_running=alive is not None and alive.status == 200):
            findings.append(finding)
            if is_told:
                _tell(finding)
    finally:
        for issuer in app.issuers.values():
            await issuer.close()
        await app.store.close()
    return findings


def _tell(finding: Finding) -> None:
    out.print(
        f"{_MARKS[finding.verdict]}  [bold]{escape(finding.about)}[/] {finding.check}: {escape(finding.text)}",
        soft_wrap=True,
    )
    if finding.cure:
        out.print(f"       [bold]→[/] {escape(finding.cure)}", soft_wrap=True)


def _summary(findings: list[Finding], wrong: list[Finding]) -> str:
    if not wrong:
        return f"\nNothing is wrong: {len(findings)} things looked at."
    return f"\n{len(wrong)} of {len(findings)} things are wrong: {_listed(one.check for one in wrong)}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
