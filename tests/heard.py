"""A sink for calls to an upstream that writes down what it is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.headers import Fields
from proxy.transport.seam import Trouble


@dataclass
class Heard:
    """A sink that writes down what it is told, and may answer back."""

    said: list[Any] = field(default_factory=list)
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What to do when it is told `head`, `data`, `end` or `error`."""

    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None
    fields: Fields = field(default_factory=list)

    @property
    def status(self) -> int:
        """The answer's status, 0 without one."""
        return next((one for one in self.said if isinstance(one, int)), 0)

    @property
    def body(self) -> bytes:
        return b"".join(one for one in self.said if isinstance(one, bytes))

    def _hear(self, kind: str, what: Any) -> None:
        self.said.append(what)
        self.on.get(kind, lambda: None)()

    def on_head(self, status: int, fields: Fields) -> None:
        self.fields = fields
        self._hear("head", status)

    def on_data(self, data: bytes) -> None:
        self._hear("data", data)

    def on_end(self) -> None:
        self._hear("end", "end")
        self.is_over.set()

    def on_error(self, trouble: Trouble, error: BaseException | None) -> None:
        self.error = error
        self._hear("error", trouble)
        self.is_over.set()

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")
