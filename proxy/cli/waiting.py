"""`wait`: for compose and batch jobs, until the running proxy can serve, and for as long as the job needs."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from proxy.cli.accounts import moment
from proxy.cli.command import FAILED, SIGN_IN_NEEDED, ConfigOption, identity_names, run
from proxy.cli.local import LocalAnswer, ask
from proxy.cli.terminal import chosen, configured, err
from proxy.clock import Clock, SystemClock
from proxy.control.words import duration_words
from proxy.forecast import Forecast

ANSWER_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 2.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

Ask = Callable[[str], LocalAnswer | None]


def duration(text: object) -> float:
    """Return the seconds that `90`, `90s`, `10m`, `6h` or `2d` means; raises BadParameter."""
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90, 90s, 10m, 6h or 2d.")
    return float(found[1]) * _UNITS[found[2]]


def wait(
    identity: Annotated[
        str | None,
        typer.Argument(
            metavar="IDENTITY",
            help="Which identity; all of them if left out.",
            show_default=False,
            autocompletion=identity_names,
        ),
    ] = None,
    valid_for: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Also ask whether the sign-in lasts that long: 90, 90s, 10m, 6h, 2d.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="DURATION", help="How long to wait.", show_default="5m")
    ] = 300.0,
    config: ConfigOption = None,
) -> None:
    """Wait until the proxy on this machine can serve; 1 if it cannot in time, 3 if the sign-in is too short."""
    configuration = configured(config)
    name = None if identity is None else chosen(configuration, identity).name
    verdict = run(
        waited(
            lambda path: ask(configuration.server, path, timeout_seconds=ANSWER_SECONDS),
            name,
            valid_for=valid_for,
            timeout_seconds=timeout,
            clock=SystemClock(),
            told=lambda reason: err.print(f"waiting: {reason}", markup=False, soft_wrap=True),
        )
    )
    if verdict.exit_status:
        err.print(f"error: {verdict.sentence}", markup=False, soft_wrap=True)
        raise typer.Exit(verdict.exit_status)
    typer.echo(verdict.sentence)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at the proxy means; `exit_status` None is: look again."""

    exit_status: int | None
    sentence: str


async def waited(
    asked: Ask,
    name: str | None,
    *,
    valid_for: float | None,
    timeout_seconds: float,
    clock: Clock,
    told: Callable[[str], None],
) -> Verdict:
    """Return the first verdict that ends the wait, or a failure after `timeout_seconds`; `told` hears each reason once.

    `asked` returns the proxy's answer to a GET of a path; it may block.
    """
    deadline, pause, reason = clock.boot() + timeout_seconds, FIRST_PAUSE_SECONDS, ""
    path = "/-/ready" if name is None else f"/-/ready?identity={quote(name, safe='')}"
    while True:
        verdict = of_readiness(await asyncio.to_thread(asked, path))
        if verdict.exit_status == 0 and valid_for is not None:
            answer = await asyncio.to_thread(asked, "/-/identities.json")
            verdict = of_forecasts(_rows(answer, name), valid_for, clock.wall())
        if verdict.exit_status is not None:
            return verdict
        left = deadline - clock.boot()
        if left <= 0:
            return Verdict(FAILED, f"Not ready within {duration_words(timeout_seconds)}: {verdict.sentence}")
        if verdict.sentence != reason:
            reason = verdict.sentence
            told(reason)
        await clock.sleep(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def of_readiness(answer: LocalAnswer | None) -> Verdict:
    """Return what an answer of `/-/ready` means."""
    if answer is None:
        return Verdict(None, "no proxy answers there yet.")
    if answer.status == 200:
        return Verdict(0, "ready")
    try:
        said = answer.json()
        reasons = [f"{one['identity']}: {one['detail'] or one['state']}" for one in said.get("reasons", ())]
        return Verdict(None, "; ".join(reasons) or str(said["detail"]))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        return Verdict(None, f"it answers with status {answer.status}.")


def of_forecasts(rows: Sequence[dict[str, Any]], valid_for: float, now: float) -> Verdict:
    """Return whether every sign-in of `rows`, from `/-/identities.json`, lasts `valid_for` seconds from `now`."""
    if not rows:
        return Verdict(None, "the proxy does not say who is signed in.")
    short = [
        _shortfall(row["name"], seen, valid_for)
        for row in rows
        if not (seen := _forecast(row.get("ends"))).covers(now + valid_for)
    ]
    return Verdict(SIGN_IN_NEEDED, " ".join(short)) if short else Verdict(0, "ready")


def _shortfall(name: str, seen: Forecast, valid_for: float) -> str:
    """Return why a sign-in is too short, and what to do."""
    asked = duration_words(valid_for)
    if seen.ends_at is None:
        why = f"Nobody says when the sign-in of '{name}' ends, so {asked} cannot be promised."
    elif seen.kind == "known":
        why = f"The sign-in of '{name}' ends {moment(seen.ends_at)}, before {asked} are over."
    else:
        why = f"The sign-in of '{name}' is certain only until {moment(seen.ends_at)}; {asked} were asked for."
    return f"{why} For one that outlives the session, run: bearerproxy login {name} --offline"


def _rows(answer: LocalAnswer | None, name: str | None) -> list[dict[str, Any]]:
    if answer is None or answer.status != 200:
        return []
    return [row for row in answer.json() if name is None or row["name"] == name]


def _forecast(ends: dict[str, Any] | None) -> Forecast:
    if ends is None:
        return Forecast("unknown")
    at = ends["at"]
    return Forecast(ends["kind"], None if at is None else datetime.fromisoformat(at).timestamp(), ends["is_offline"])
