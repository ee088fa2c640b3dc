"""What is made of the names of a head's fields, worked out once for the usual ones.

Callers and upstreams choose their names, so what is remembered of them is bounded: in how many there are, and in size.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

USUAL_LINES = 40
USUAL_BYTES = 1024
"""Of all names of a head together."""
USUAL_HEADS = 256

Names = tuple[bytes, ...]
T = TypeVar("T")


class Remembered(dict[Names, T], Generic[T]):
    """What is made of a head's names, worked out once for the usual ones."""

    def __init__(self, judge: Callable[[Names], T]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, names: Names) -> T:
        """Judge names that are not remembered."""
        verdict = self._judge(names)
        if len(names) <= USUAL_LINES and sum(map(len, names)) <= USUAL_BYTES:
            if len(self) >= USUAL_HEADS:
                self.clear()
            self[names] = verdict
        return verdict
