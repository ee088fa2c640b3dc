"""What an ASGI app's answer waits for (proxy/cycle.py)."""

import asyncio

from proxy.clock import settle
from proxy.cycle import Flow


async def test_nobody_waits_for_a_caller_who_reads() -> None:
    await asyncio.wait_for(Flow(asyncio.Transport()).drain(), 1)


async def test_all_who_wait_for_a_caller_go_on_when_it_has_read() -> None:
    slow = Flow(asyncio.Transport())
    for _ in range(2):
        slow.pause_writing()
        waiting = [asyncio.ensure_future(slow.drain()) for _ in range(2)]
        await settle()
        assert not any(one.done() for one in waiting)
        slow.resume_writing()
        await asyncio.wait_for(asyncio.gather(*waiting), 1)

    await asyncio.wait_for(slow.drain(), 1)
