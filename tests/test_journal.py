"""The journal: the last requests, in a ring."""

import asyncio
import time

from proxy.clock import ManualClock, settle
from proxy.events import Listening, Refused, Relayed
from proxy.journal import LENGTH, Entry, Journal

NOW = 1_750_000_000.0


def relayed(target: str = "/data/x", **more: object) -> Relayed:
    values = {"status": 200, "received": 0, "sent": 5, "seconds": 0.1} | more
    return Relayed("data", "GET", target, **values)  # type: ignore[arg-type]  # a test's own mixture


def refused(target: str = "/elsewhere") -> Refused:
    return Refused("no-upstream", 404, "GET", target, "No mount holds this.")


def test_an_entry_says_whose_answer_it_was() -> None:
    journal = Journal(ManualClock(NOW))
    journal(relayed())
    journal(refused())

    first, second = journal.entries()
    assert (first.number, first.moment, first.upstream, first.is_own) == (1, NOW, "data", False)
    assert (second.number, second.upstream, second.is_own) == (2, "", True)


def test_only_the_last_requests_are_kept_and_numbers_go_on() -> None:
    journal = Journal(ManualClock(NOW))
    for number in range(LENGTH + 20):
        journal(relayed(f"/data/{number}"))

    entries = journal.entries()
    assert len(entries) == LENGTH
    assert [entries[0].number, entries[-1].number] == [21, LENGTH + 20]
    assert entries[0].event.target == "/data/20"


def test_events_that_are_no_requests_are_none_of_its_business() -> None:
    journal = Journal(ManualClock(NOW))
    journal(Listening(("http://localhost:8400",)))

    assert journal.entries() == []


def test_it_remembers_nothing_when_it_is_off() -> None:
    journal = Journal(ManualClock(NOW), length=0)
    journal(relayed())

    assert (journal.is_on, journal.news.count, journal.entries()) == (False, 0, [])


def test_entries_can_be_asked_for_from_a_number_on_and_chosen() -> None:
    journal = Journal(ManualClock(NOW))
    for event in (relayed("/a"), refused("/b"), relayed("/c"), refused("/d")):
        journal(event)

    assert [one.event.target for one in journal.entries(after=2)] == ["/c", "/d"]
    assert [one.event.target for one in journal.entries(wanted=Entry.is_own.__get__)] == ["/b", "/d"]


async def test_each_request_is_news() -> None:
    journal = Journal(ManualClock(NOW))
    waiting = asyncio.get_running_loop().create_task(journal.news.after(0))
    await settle()
    assert not waiting.done()

    journal(relayed())

    await asyncio.wait_for(waiting, 1)


def test_a_request_costs_the_journal_next_to_nothing() -> None:
    """Well below a tenth of what a relayed request costs, on any machine."""
    journal, event = Journal(ManualClock(NOW)), relayed()
    begun = time.perf_counter()
    for _ in range(20_000):
        journal(event)

    assert (time.perf_counter() - begun) / 20_000 < 10e-6
