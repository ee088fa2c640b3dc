"""One request that an ASGI app answers: uvicorn's cycle with exact bytes towards the caller (framing.py)."""

import asyncio
import urllib.parse
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from proxy.errors import BrokenOff, CallerGone, defect
from proxy.framing import CONTINUE, Framing, cut_off


class Flow(FlowControl):
    """Whether the caller is read, and reads: uvicorn's, with an Event only where somebody waits for the caller.

    An Event has three quarters of a KiB, and most connections never have to wait.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._has_room: asyncio.Event | None = None

    async def drain(self) -> None:
        """Wait until the caller has read what was written, or is gone."""
        if self.write_paused:
            self._has_room = self._has_room or asyncio.Event()
            await self._has_room.wait()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._has_room is not None:
            self._has_room.set()
            self._has_room = None


class Cycle(RequestResponseCycle):
    """One request and its answer. `on_taken` is called when the app has taken what there was of the body."""

    def __init__(self, *, framing: Framing, on_taken: Callable[[], None], **uvicorn: Any) -> None:
        super().__init__(keep_alive=framing.keep_alive, **uvicorn)
        self.framing = framing
        self._on_taken = on_taken

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except (BrokenOff, CallerGone):
            self.cut()
        except asyncio.CancelledError:
            self.cut()
            raise
        except Exception as error:  # noqa: BLE001 - a connection outlives the defects of its requests
            self.cut()
            self.logger.error("a request ended with an unexpected error: %s", defect(error))  # noqa: TRY400 - no text
        else:
            if not self.response_complete:
                self.cut()
        finally:
            self.on_response = lambda: None

    # what the connection tells ----------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the app has not taken what came of the body."""
        return len(self.body) > HIGH_WATER_LIMIT

    def take(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if not self.response_complete:
            self.body += data
            self.message_event.set()

    def end(self) -> None:
        """Take note that the request is whole."""
        if not self.response_complete:
            self.more_body = False
            self.message_event.set()

    def cut(self) -> None:
        """End the connection so that no caller takes the answer for complete (http-law H56, H57)."""
        if not self.response_complete:
            cut_off(self.transport, is_close_delimited=self.framing.is_close_delimited)

    # what the app says ------------------------------------------------------------------------------------------------

    async def receive(self) -> Any:
        """Return the next ASGI message: what came of the body since the last one, or that the caller is gone."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        self._on_taken()
        return message

    async def send(self, message: Any) -> None:
        """Write one ASGI message. Raises CallerGone if nobody is there to read it, BrokenOff for a second head."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            raise CallerGone("the caller closed the connection")
        if message["type"] == "http.response.start":
            if self.response_started:
                raise BrokenOff("an answer had already begun")
            self.response_started = True
            self.waiting_for_100_continue = False
            fields = message.get("headers", [])
            self.transport.write(self.framing.head(message["status"], fields, is_early=self.more_body))
        elif self.response_complete:
            raise RuntimeError("an answer was sent twice")
        else:
            self._continue(message.get("body", b""), is_last=not message.get("more_body", False))

    def _continue(self, body: bytes, *, is_last: bool) -> None:
        framed = self.framing.piece(body)
        if is_last:
            framed += self.framing.end()
        if framed:
            self.transport.write(framed)
        if is_last:
            self.response_complete = True
            self.message_event.set()
            self.on_response()


def scope_of(method: str, target: bytes, version: str, fields: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return what ASGI says of a request, but for where its connection runs; `target` is raw, in origin-form (P12)."""
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "scheme": "http",
        "root_path": "",
        "path": urllib.parse.unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(fields),
        "state": {},
        "extensions": {"bearerproxy": {"target": target}},
    }
