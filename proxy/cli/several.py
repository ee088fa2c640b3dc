"""`serve --workers N`: one configuration, one set of listeners, several processes."""

import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace

import typer

from proxy.app import App
from proxy.cli.command import run
from proxy.cli.spans import with_spans
from proxy.clock import SystemClock
from proxy.config import Configuration
from proxy.events import Listening
from proxy.logs import Log
from proxy.server import Listener


def serve_by(count: int, configuration: Configuration, log: Log) -> int:
    """Serve by `count` processes until a signal; return the exit status. Raises BadParameter where that cannot be."""
    if sys.platform != "linux":  # elsewhere the system's own libraries do not survive a fork
        raise typer.BadParameter("--workers is available on Linux alone; leave it away.")
    from proxy import workers  # which Windows does not have

    bound = App(configuration, emit=log)  # it serves nobody: what it opens and keeps is divided among the workers
    if bound.store.kind == "memory":
        raise typer.BadParameter('--workers needs a store that processes share: [store] kind is "memory" here.')
    listeners = bound.bind()

    async def serving(app: App, lifeline: int) -> None:
        stop = asyncio.Event()
        workers.end_worker(stop, lifeline)
        async with app:
            await app.serve(_borrowed(listeners), stop)

    def work(lifeline: int) -> int:
        try:
            with with_spans(configuration, log) as emit:
                app = App(configuration, emit=emit, is_alone=False)
                app.adopt(bound)
                run(serving(app, lifeline))
        finally:
            log.flush()  # a worker ends without what is registered with atexit
        return 0

    def close() -> None:
        for listener in listeners:
            listener.close()

    gc.freeze()  # a worker's collector would write to every page that it shares with the parent
    gc.enable()  # off since the command began (main)
    log(Listening(tuple(listener.url for listener in listeners)))
    return workers.Workers(
        count,
        work,
        close=close,
        drain_seconds=configuration.server.drain_seconds,
        clock=SystemClock(),
        emit=log,
    ).run()


def _borrowed(listeners: Sequence[Listener]) -> list[Listener]:
    """Return listeners whose close leaves a unix socket in its place for the other workers."""
    return [replace(one, file=None) for one in listeners]
