"""Proof that a form was on a page of ours a while ago, good for one use (S43)."""

import secrets
from collections import OrderedDict

from proxy.clock import Clock

LIFE_SECONDS = 3600.0
MOST = 1024


class Nonces:
    """Gives and takes them; the oldest go when there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._given: OrderedDict[str, float] = OrderedDict()

    def give(self) -> str:
        """Return a new one."""
        nonce = secrets.token_urlsafe(16)
        self._given[nonce] = self._clock.boot()
        while len(self._given) > MOST:
            self._given.popitem(last=False)
        return nonce

    def take(self, nonce: str) -> bool:
        """Return whether `nonce` is one that was given, is not too old and has not been taken before."""
        given = self._given.pop(nonce, None)
        return given is not None and self._clock.boot() - given < LIFE_SECONDS
