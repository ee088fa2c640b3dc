"""The questions of `init`: asked where a person is, each answer tried, and every one with a second chance."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import typer
from rich.control import Control
from rich.markup import escape
from rich.segment import ControlType

from proxy.cli.command import FAILED, WRONG_USAGE, run
from proxy.cli.local import ask
from proxy.cli.terminal import err
from proxy.config import ServerSettings
from proxy.init.answers import read_port
from proxy.init.trials import Found
from proxy.init.ways import Failed
from proxy.server import ListenError, bind

T = TypeVar("T")

CHANCES = 5
"""So often a question is asked before it is given up: nobody is asked for ever."""
PORT = 8400
OTHER_PORTS = range(PORT + 1, PORT + 100)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be known."""

    text: str
    option: str
    """By which it is answered on the command line."""
    given: str | None
    """That answer."""
    default: str | None


class Asking:
    """Asks, if `is_person_there`; tries what was answered, if `is_trying`."""

    def __init__(self, *, is_person_there: bool, is_trying: bool) -> None:
        self.is_person_there = is_person_there
        self.is_trying = is_trying

    def simple(self, question: Question, read: Callable[[str], T]) -> T:
        """Return what an answer means that cannot be tried. Raises typer.Exit if there is no good one."""
        text = self._first(question)
        for _ in range(CHANCES):
            try:
                return read(text)
            except ValueError as error:
                text = self._once_more(question, str(error), WRONG_USAGE, text)
        raise typer.Exit(WRONG_USAGE)

    def tried(
        self,
        question: Question,
        read: Callable[[str], T],
        trial: Callable[[T], Awaitable[Found]],
        untried: Callable[[T], Found],
    ) -> Found:
        """Return what `trial` made of an answer, or `untried` of one that is kept without. Raises typer.Exit."""
        text = self._first(question)
        for _ in range(CHANCES):
            try:
                meant = read(text)
            except ValueError as error:
                text = self._once_more(question, str(error), WRONG_USAGE, text)
                continue
            try:
                return _told(trial(meant)) if self.is_trying else untried(meant)
            except Failed as failure:
                again = self._once_more(question, str(failure), FAILED, text)
            if again == text:
                return untried(meant)
            text = again
        raise typer.Exit(FAILED)

    def port(self, given: int | None) -> int:
        """Return the local port; asks only where the usual one is taken."""
        if given is not None or not self.is_trying or _is_free(PORT) or _is_ours(PORT):
            return given or PORT
        other = next((port for port in OTHER_PORTS if _is_free(port)), PORT)
        err.print(f"   [yellow]Port {PORT} is taken by another program.[/]")
        if not self.is_person_there:
            err.print(f"   {other} is written instead; --port says another.")
            return other
        return self.simple(Question("   Which port instead?", "--port", None, str(other)), read_port)

    def _first(self, question: Question) -> str:
        if question.given is not None:
            return question.given
        if self.is_person_there:
            return _asked(question.text, question.default)
        if question.default is not None:
            return question.default
        err.print(f"{question.option} is missing; in a terminal, bearerproxy init asks for it.", markup=False)
        raise typer.Exit(WRONG_USAGE)

    def _once_more(self, question: Question, complaint: str, status: int, text: str) -> str:
        """Say what is wrong and return the next answer, which may be the same. Raises typer.Exit if nobody is there."""
        err.print(f"   [red]no[/]  {escape(complaint)}", soft_wrap=True)
        if not self.is_person_there:
            more = "; --no-test writes it all the same" if status == FAILED else ""
            err.print(f"Nothing was written: {question.option} has to be another{more}.", markup=False)
            raise typer.Exit(status)
        return _asked("   Another? Enter keeps it" if status == FAILED else "   Once more?", text)


def _asked(text: str, default: str | None) -> str:
    answer: str = typer.prompt(text, default=default, prompt_suffix=" " if default is None else ": ", err=True)
    return answer.strip()


def _told(trial: Awaitable[Found]) -> Found:
    """Wait for a trial where somebody sees that it goes on, and say how it went."""
    if err.is_terminal:
        err.print("   …", end="")
    try:
        found = run(_awaited(trial))
    finally:
        if err.is_terminal:
            err.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    err.print(f"   [green]ok[/]  {escape(found.text)}", soft_wrap=True)
    for note in found.way.notes:
        err.print(f"       [dim]{escape(note)}[/]", soft_wrap=True)
    return found


async def _awaited(trial: Awaitable[Found]) -> Found:
    return await trial


def _is_free(port: int) -> bool:
    try:
        listeners = bind("127.0.0.1", port, allow_remote=False)
    except ListenError:
        return False
    for listener in listeners:
        listener.close()
    return True


def _is_ours(port: int) -> bool:
    answer = ask(ServerSettings(port=port), "/-/live", timeout_seconds=1.0)
    return answer is not None and answer.status == 200
