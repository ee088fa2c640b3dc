"""The log as a person reads it on a terminal: one calm line an event, colour only where it says something."""

from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.text import Text

from proxy.events import Event, Refused, Relayed, SignedIn, SignInAwaited
from proxy.logs import LEVELS, level_of, printable, sentence


def shown_on(console: Console) -> Callable[[datetime, Event], None]:
    """Return what writes an event to `console`; it wraps nothing, so that a URL stays whole."""
    return lambda now, event: console.print(line(now, event), soft_wrap=True)


def line(now: datetime, event: Event) -> Text:
    """Return an event's line; `now` is in the person's own time zone."""
    return Text.assemble((f"{now:%H:%M:%S}  ", "dim"), (printable(sentence(event)), style_of(event)))


def style_of(event: Event) -> str:
    """Return how a line looks: plain unless somebody should look at it, or waited for it."""
    match event:
        case SignInAwaited():
            return "bold"
        case SignedIn():
            return "green"
        case Refused():
            return "yellow"
        case Relayed() if event.status >= 400:
            return "red" if event.status >= 500 else "yellow"
    level = level_of(event)
    if level >= LEVELS["error"]:
        return "red"
    return "yellow" if level >= LEVELS["warning"] else ""
