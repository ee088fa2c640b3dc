"""Waiting for something to change."""

import asyncio

import pytest

from proxy.clock import settle
from proxy.news import News


async def test_who_waits_is_woken_by_what_is_told_next() -> None:
    news = News()
    waiting = asyncio.get_running_loop().create_task(news.after(0))
    await settle()
    assert not waiting.done()

    news.tell()

    await asyncio.wait_for(waiting, 1)
    assert not news._waiting


async def test_what_has_been_told_already_is_not_waited_for() -> None:
    news = News()
    news.tell()

    await asyncio.wait_for(news.after(0), 1)


async def test_the_end_lets_everybody_go() -> None:
    news = News()
    waiting = asyncio.get_running_loop().create_task(news.after(0))
    await settle()

    news.close()

    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(news.after(7), 1)
    assert news.is_closed


async def test_who_goes_away_is_forgotten() -> None:
    news = News()
    waiting = asyncio.get_running_loop().create_task(news.after(0))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    news.tell()
    assert not news._waiting
