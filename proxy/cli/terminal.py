"""What a person at the terminal sees: the consoles, warnings, and how an error reads."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from proxy.cli.command import FAILED, SIGN_IN_NEEDED, WRONG_USAGE
from proxy.config import Configuration, load
from proxy.errors import BearerproxyError, ConfigError, SignInRequired
from proxy.identities import Identity

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


class Screen(Console):
    """A console on which nothing but our own styles is obeyed: names of files and people are strangers' words (S25)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of what is printed, without what terminals obey or UTF-8 cannot carry."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_OBEYED.sub("", segment.text), segment.style)


# Where nobody looks, lines are for programs: never wrapped or cut at 80 columns.
err = Screen(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 1000)
out = Screen(highlight=False, width=None if sys.stdout.isatty() else 1000)


def configured(config: Path | None, overrides: Mapping[str, object] | None = None) -> Configuration:
    """Load the configuration and show its warnings. Raises ConfigError."""
    loaded = load(config, overrides=overrides or {})
    for warning in loaded.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}")
    return loaded


def chosen(configuration: Configuration, name: str | None, *, needs_person: bool = False) -> Identity:
    """Return the identity called `name`, or the only one there is; of those a person signs in, if `needs_person`."""
    identities = configuration.identities
    if name is not None:
        if name in identities:
            return identities[name]
        raise typer.BadParameter(f"There is no identity {name!r}; there is: {', '.join(identities) or 'none'}.")
    candidates = [one for one in identities.values() if one.grant.needs_person or not needs_person]
    candidates = candidates or list(identities.values())
    if len(candidates) == 1:
        return candidates[0]
    raise typer.BadParameter(f"Which identity? There is: {', '.join(one.name for one in candidates) or 'none'}.")


def report(error: BearerproxyError) -> int:
    """Print an error as its one sentence, or several for a configuration, and return the exit status."""
    if isinstance(error, ConfigError):
        count = len(error.mistakes)
        err.print(f"[bold red]The configuration has {count} mistake{'s' if count > 1 else ''}:[/]")
        for mistake in error.mistakes:
            err.print(f"  [bold]{escape(mistake.where)}[/]: {escape(mistake.what)}", soft_wrap=True)
        return WRONG_USAGE
    err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    return SIGN_IN_NEEDED if isinstance(error, SignInRequired) else FAILED
