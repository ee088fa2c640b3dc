"""What is made of the names of fields, and of other words in them, worked out once for the usual ones.

Callers and upstreams choose them, so what is remembered of them is bounded: in how many there are, and in size.
"""

from collections.abc import Callable
from typing import AnyStr, Generic, TypeVar

USUAL_BYTES = 64
"""Longest word that is remembered."""
USUAL_NAMES = 1024
USUAL_LINES = 40
"""Most names of a head that is remembered."""
USUAL_HEAD_BYTES = 1024
"""Of all its names together."""
USUAL_HEADS = 256

Names = tuple[bytes, ...]
K = TypeVar("K")
T = TypeVar("T")


class Remembered(dict[K, T], Generic[K, T]):
    """Looks up what `judge` makes of a key; it is asked once for each that `is_usual`, of which `most` are kept."""

    def __init__(self, judge: Callable[[K], T], *, is_usual: Callable[[K], bool], most: int) -> None:
        super().__init__()
        self._judge = judge
        self._is_usual = is_usual
        self._most = most

    def __missing__(self, key: K) -> T:
        """Judge a key that is not remembered."""
        verdict = self._judge(key)
        if self._is_usual(key):
            if len(self) >= self._most:
                self.clear()
            self[key] = verdict
        return verdict


def by_name(judge: Callable[[AnyStr], T]) -> Remembered[AnyStr, T]:
    """Remember what is made of single names, or of other short words."""
    return Remembered(judge, is_usual=lambda name: len(name) <= USUAL_BYTES, most=USUAL_NAMES)


def by_names(judge: Callable[[Names], T]) -> Remembered[Names, T]:
    """Remember what is made of all names of a head, in their order."""
    return Remembered(judge, is_usual=_is_usual_head, most=USUAL_HEADS)


def _is_usual_head(names: Names) -> bool:
    return len(names) <= USUAL_LINES and sum(map(len, names)) <= USUAL_HEAD_BYTES
