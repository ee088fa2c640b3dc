"""What happened, one line an event: calm text on a terminal, JSON lines elsewhere.

It knows events and nothing else. Events carry no token, and every value is escaped, so a line is one line (S35).

A write for each request would be a third of what a small one costs. Where no person watches, the lines of requests wait
for each other, for BATCH_SECONDS at most; every other line goes out at once, and those that wait go before it. Whoever
makes a Log flushes it at the end: nothing is lost but by a process that is killed.
"""

import asyncio
import contextlib
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import TextIO, get_args

from proxy.clock import Clock
from proxy.errors import defect
from proxy.events import (
    Emit,
    Event,
    Failed,
    Listening,
    Misconfigured,
    Refused,
    Relayed,
    RenewalFailed,
    SignedIn,
    SignedOut,
    SignInAwaited,
    SignInEnded,
    SignInEnding,
    StoreTrouble,
    TokenRenewed,
    Warned,
)

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_WARNING = LEVELS["warning"]
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BOOL = {False: "false", True: "true"}
_NAMES = {number: name for name, number in LEVELS.items()}
BATCH_SECONDS = 0.25
"""How long the line of a request may wait to be written together with others."""
BATCH_LINES = 256
"""How many may: to write more at once would keep everybody waiting."""


class Log:
    """Writes events of at least `level` to `stream`, as JSON lines or text; relayed requests only with `access`."""

    def __init__(
        self,
        clock: Clock,
        *,
        level: str,
        is_json: bool,
        access: bool,
        is_combined: bool = False,
        stream: TextIO | None = None,
        show: Callable[[datetime, Event], None] | None = None,
    ) -> None:
        """Write to `stream`, or hand what would be text to `show`, with the time in this machine's zone."""
        self._clock = clock
        self._level = LEVELS[level]
        self._is_json = is_json
        self._access = access
        self._is_combined = is_combined
        self._stream = stream or sys.stderr
        self._show = show
        self._waiting: list[str] = []
        self._flush_by: asyncio.AbstractEventLoop | None = None
        """The loop that is going to write what waits."""
        self._second = -1, ""
        """A second, and how lines say it: in one value, since lines may come from other threads."""
        self._writing = threading.Lock()

    def __call__(self, event: Event) -> None:
        level = level_of(event)
        is_request = isinstance(event, (Relayed, Refused))
        if level < self._level or (not self._access and isinstance(event, Relayed)):
            return
        wall = self._clock.wall()
        if self._show is not None and not self._is_json and not (self._is_combined and is_request):
            with contextlib.suppress(OSError, ValueError):  # a closed terminal must not stop the relay
                self._show(datetime.fromtimestamp(wall, UTC).astimezone(), event)
            return
        self._waiting.append(self._line(event, level, wall))
        may_wait = is_request and self._show is None and level < _WARNING and len(self._waiting) < BATCH_LINES
        if not (may_wait and self._is_to_be_flushed()):
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:  # lines may come from other threads
            lines = self._waiting[:]
            del self._waiting[: len(lines)]
            with contextlib.suppress(OSError, ValueError):  # a closed terminal must not stop the relay
                self._stream.write("".join(lines))
                self._stream.flush()

    def _is_to_be_flushed(self) -> bool:
        """Return whether a loop will write what waits; False if none runs here."""
        loop = self._flush_by
        if loop is not None and not loop.is_closed():
            return True
        try:
            self._flush_by = loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        loop.call_later(BATCH_SECONDS, self._flush_in_time)
        return True

    def _flush_in_time(self) -> None:
        self._flush_by = None
        self.flush()

    def _line(self, event: Event, level: int, wall: float) -> str:
        if self._is_json and not (self._is_combined and isinstance(event, (Relayed, Refused))):
            return json_line(event, level, self._moment(wall)) + "\n"
        now = datetime.fromtimestamp(wall, UTC)
        if self._is_combined and isinstance(event, (Relayed, Refused)):
            return combined(event, now) + "\n"
        return f"{now.astimezone():%H:%M:%S}  {printable(sentence(event))}\n"

    def _moment(self, wall: float) -> str:
        """Return a time of day in milliseconds (ISO 8601, UTC); what many lines share is made once a second."""
        second, said = self._second
        if second != int(wall):
            second = int(wall)
            said = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
            self._second = second, said
        return f"{said}.{int((wall - second) * 1000):03d}+00:00"


def json_line(event: Event, level: int, moment: str) -> str:
    """Return an event as one JSON object; `moment` is its time in ISO 8601."""
    if not isinstance(event, Relayed):
        head = {"time": moment, "level": _NAMES[level], "event": name_of(event)}
        return json.dumps(head | {name: getattr(event, name) for name in _PARTS[type(event)]})
    age = "null" if event.token_age is None else repr(event.token_age)
    return (  # what json.dumps says, at a fifth of its price
        f'{{"time": "{moment}", "level": "{_NAMES[level]}", "event": "relayed", '
        f'"upstream": {quoted(event.upstream)}, "method": {quoted(event.method)}, '
        f'"target": {quoted(event.target)}, "status": {event.status}, "received": {event.received}, '
        f'"sent": {event.sent}, "seconds": {event.seconds!r}, "is_complete": {_BOOL[event.is_complete]}, '
        f'"is_replay": {_BOOL[event.is_replay]}, "token_age": {age}, "peer": {quoted(event.peer)}, '
        f'"agent": {quoted(event.agent)}, "traceparent": {quoted(event.traceparent)}}}'
    )


def name_of(event: Event) -> str:
    """Return an event's name on the wire: `token-renewed` for TokenRenewed."""
    return _WIRE_NAMES[type(event)]


def _hyphenated(name: str) -> str:
    return "".join("-" + char.lower() if char.isupper() and index else char.lower() for index, char in enumerate(name))


_WIRE_NAMES: Mapping[type, str] = {kind: _hyphenated(kind.__name__) for kind in get_args(Event)}
# What an event says is flat: dataclasses.asdict would copy each value deeply, for a third of all that a request costs.
_PARTS: Mapping[type, tuple[str, ...]] = {kind: tuple(one.name for one in fields(kind)) for kind in get_args(Event)}


_LEVELS: Mapping[type, int] = {
    **dict.fromkeys((RenewalFailed, SignInEnded, SignInEnding, StoreTrouble, Warned), LEVELS["warning"]),
    **dict.fromkeys((Misconfigured, Failed), LEVELS["error"]),
    TokenRenewed: LEVELS["debug"],
}


def level_of(event: Event) -> int:
    """Return the level on which an event is told."""
    if isinstance(event, Relayed):
        return LEVELS["info" if event.is_complete else "warning"]
    return _LEVELS.get(type(event), LEVELS["info"])


def sentence(event: Event) -> str:  # noqa: C901, PLR0911, PLR0912 - one line for each event, to be read as a table
    """Return an event as a person reads it."""
    match event:
        case Listening():
            return f"listening on {', '.join(event.urls)}"
        case Relayed():
            broken = "" if event.is_complete else "  broke off"
            replay = "  after renewal" if event.is_replay else ""
            line = f"{event.method} {event.target}  {event.status}  {size(event.sent)}  {event.seconds:.3f} s"
            return line + replay + broken
        case Refused():
            return f"{event.method} {event.target}  {event.status} {event.kind}: {event.detail}"
        case SignedIn():
            kind = " with an offline token" if event.is_offline else ""
            return f"{event.identity}: signed in as {event.username or 'somebody'}{kind}"
        case SignedOut():
            return f"{event.identity}: signed out"
        case SignInEnded():
            return f"{event.identity}: the sign-in has ended ({event.reason}). Run: bearerproxy login {event.identity}"
        case SignInEnding():
            then = datetime.fromtimestamp(event.ends_at, UTC).astimezone()
            return (
                f"{event.identity}: the sign-in ends {then:%a %d %b %H:%M}, in {duration(event.seconds)}. "
                f"To go on without a break, run: bearerproxy login {event.identity}"
            )
        case SignInAwaited():
            return f"{event.identity}: a request waits {event.seconds:.0f} s for you to sign in: {event.url}"
        case TokenRenewed():
            return f"{event.identity}: token renewed for {event.life_seconds:.0f} s"
        case RenewalFailed():
            state = "the current token still serves" if event.has_valid_token else "no valid token is left"
            return (
                f"{event.identity}: renewal failed ({event.reason}); {state}; next try in {event.retry_seconds:.0f} s"
            )
        case Misconfigured():
            return f"{event.identity}: {event.reason}"
        case StoreTrouble():
            return f"token store: {event.reason}"
        case Warned():
            return f"warning: {event.message}"
        case Failed():
            return f"unexpected error in {event.where}: {event.error}"


def combined(event: Relayed | Refused, now: datetime) -> str:
    """Return a request in the combined log format, which every log analyser reads (Apache's mod_log_config).

    The identity of the caller and the page that it came from are not known or not kept: `-`.
    """
    peer, agent, sent = (event.peer, event.agent, event.sent) if isinstance(event, Relayed) else ("-", "-", 0)
    moment = f"{now.day:02d}/{_MONTHS[now.month - 1]}/{now:%Y:%H:%M:%S} +0000"  # %b would speak the machine's language
    request = _quoted(f"{event.method} {event.target} HTTP/1.1")
    return f'{printable(peer)} - - [{moment}] {request} {event.status} {sent or "-"} "-" {_quoted(agent)}'


def _quoted(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\")).replace('"', '\\"') + '"'


def duration(seconds: float) -> str:
    """Return a duration as people write it: `9 h 12 min`, `4 min`, `40 s`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Return a number of bytes as people write it."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def printable(text: str) -> str:
    """Return text on one line: control characters escaped, so that no value can forge a log line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class _Bridge(logging.Handler):
    """Turns what libraries log at ERROR into events, so that there is one log."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.ERROR)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        said = record.getMessage()
        if record.name == "asyncio":  # `Exception in callback NAME(…)` with its arguments, and the task on another line
            said = said.partition("\n")[0].partition("(")[0]
        self._emit(Failed(record.name, f"{said}: {defect(error)}" if error else said))


def bridge_libraries(emit: Emit) -> None:
    """Send the libraries' errors to `emit` and silence the rest: httpx2 logs whole URLs at INFO (S35)."""
    for name in ("httpx2", "httpcore2", "keyring", "filelock", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.ERROR)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(emit)]
    root.setLevel(logging.ERROR)
