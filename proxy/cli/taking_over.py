"""`login --from`: where another program's refresh token is read, and what is said about its old place."""

import getpass
import sys
from collections.abc import Mapping
from pathlib import Path

import typer
from rich.markup import escape

from proxy.app import App
from proxy.cli.command import run
from proxy.cli.terminal import err
from proxy.clock import SystemClock
from proxy.errors import NotTakenOver
from proxy.identities import Identity
from proxy.sign_in import take_over
from proxy.token_files import LIMIT, FoundTokens, found_tokens
from proxy.tokens import TokenSet

STANDARD_INPUT = "-"


def taken_over(app: App, who: Identity, source: str, *, stage: str | None, is_offline: bool) -> TokenSet:
    """Return the sign-in that the refresh token in `source` became, and warn of the copy that is still there."""
    found = chosen(found_tokens(_read(source)), stage)
    token_set = run(_taken_over(app, who, found, is_offline=is_offline))
    if source != STANDARD_INPUT:
        err.print(
            f"[yellow]{escape(source)} still holds the old refresh token.[/] Where the issuer rotates refresh tokens, "
            "it is now useless, and using it would end this sign-in too; elsewhere it is as good as a password. Delete "
            "that file, and let the program that wrote it read through bearerproxy.",
            soft_wrap=True,
        )
    return token_set


async def _taken_over(app: App, who: Identity, found: FoundTokens, *, is_offline: bool) -> TokenSet:
    try:
        return await take_over(
            who, found, is_offline=is_offline, issuer_for=app.issuer_for, store=app.store, clock=SystemClock()
        )
    finally:
        await app.store.close()


def chosen(found: Mapping[str | None, FoundTokens], stage: str | None) -> FoundTokens:
    """Return the tokens of `stage`, or the only ones there are; raises BadParameter."""
    if stage is not None and stage in found:
        return found[stage]
    stages = ", ".join(one for one in found if one is not None)
    if stage is not None:
        raise typer.BadParameter(
            f"There is no refresh token of stage {stage}; there is: {stages or 'one of no stage'}."
        )
    if len(found) > 1:
        raise typer.BadParameter(f"Which stage? Choose one by --stage; there is: {stages}.")
    return next(iter(found.values()))


def _read(source: str) -> str:
    """Return what stands in a file or on standard input; a person who types is not shown what they paste."""
    if source == STANDARD_INPUT:
        return getpass.getpass("Refresh token: ") if sys.stdin.isatty() else sys.stdin.read(LIMIT + 1)
    path = Path(source).expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LIMIT + 1)
    except OSError as error:
        raise NotTakenOver(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        raise NotTakenOver(f"{path} is not text.") from None
