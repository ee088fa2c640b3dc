import asyncio

import pytest

from proxy.tasks import Tasks


async def test_closing_cancels_and_awaits_what_still_runs() -> None:
    tasks = Tasks()
    forever = tasks.start(asyncio.Event().wait(), name="forever")
    await tasks.close()
    assert forever.cancelled()


async def test_a_finished_task_is_not_kept() -> None:
    tasks = Tasks()
    done = tasks.start(asyncio.sleep(0, "result"), name="done")  # noqa: TID251 - yields only
    assert await done == "result"
    await asyncio.sleep(0)  # noqa: TID251 - lets the callback run
    assert not tasks._running


async def test_the_result_or_error_is_the_callers_to_see() -> None:
    async def fails() -> None:
        raise ValueError("here")

    tasks = Tasks()
    with pytest.raises(ValueError, match="here"):
        await tasks.start(fails(), name="fails")
    await tasks.close()
