"""Writes that wait for each other."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.outbox import Outbox


@dataclass
class Writer:
    """Tells what it is asked for."""

    name: str
    told: list[str]
    error: Exception | None = None

    def flush(self) -> None:
        self.told.append(f"{self.name} writes")
        if self.error is not None:
            raise self.error

    def flushed(self) -> None:
        self.told.append(f"{self.name} goes on")


@contextmanager
def listening() -> Iterator[list[Any]]:
    loop, defects = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: defects.append(context["exception"]))
    try:
        yield defects
    finally:
        loop.set_exception_handler(None)


async def test_all_write_before_anybody_goes_on() -> None:
    outbox, told = Outbox(), list[str]()
    outbox.post(Writer("one", told))
    outbox.post(Writer("two", told))
    assert told == []

    await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop is what is tested
    assert told == ["one writes", "two writes", "one goes on", "two goes on"]


async def test_who_posts_while_others_write_has_a_turn_of_its_own() -> None:
    outbox, told = Outbox(), list[str]()

    class Chain(Writer):
        def flushed(self) -> None:
            super().flushed()
            outbox.post(Writer("next", told))

    outbox.post(Chain("one", told))
    await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop is what is tested
    assert told == ["one writes", "one goes on"]
    await asyncio.sleep(0)  # noqa: TID251 - as above
    assert told[2:] == ["next writes", "next goes on"]


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_defect_of_one_holds_nobody_else_back(*, is_late: bool) -> None:
    outbox, told, defect = Outbox(), list[str](), ValueError("a defect")

    class Broken(Writer):
        def flushed(self) -> None:
            if is_late:
                raise defect

    outbox.post(Broken("one", told, error=None if is_late else defect))
    outbox.post(Writer("two", told))
    with listening() as defects:
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop is what is tested
    assert defects == [defect]
    assert told == ["one writes", "two writes", "two goes on"]
