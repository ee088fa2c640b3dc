"""Taking up what the store holds: at the start, after another process wrote, after a person signed in here."""

import math
from dataclasses import replace

from proxy import grants
from proxy.clock import Clock
from proxy.errors import IdentityMisconfigured, IssuerUnavailable, SecretError, SignInRequired
from proxy.events import Emit, SignedIn, SignedOut, Warned
from proxy.holding import Holding
from proxy.issuer import issuer_name
from proxy.store_entry import Reading
from proxy.stores import Trace
from proxy.tokens import TokenSet

BEGIN_AGAIN_SECONDS = 10.0


class Uptake:
    """Brings what is stored into `holding`, if it is ours to use."""

    def __init__(self, holding: Holding, *, clock: Clock, emit: Emit) -> None:
        self._holding = holding
        self._identity = holding.identity
        self._entry = holding.entry
        self._clock = clock
        self._emit = emit
        self._begin_again_at = -math.inf

    @property
    def wants_to_begin(self) -> bool:
        """True while the store or the seed could not be read, once it is time to try again."""
        return not self._holding.is_begun and self._clock.boot() >= self._begin_again_at

    async def begin(self) -> None:
        """Take up what is stored, once; tried again by the background while the store or the seed cannot be read."""
        holding, name, boot = self._holding, self._identity.name, self._clock.boot()
        async with self._entry.turn:
            try:
                holding.seed = await grants.fingerprint(self._identity)
            except SecretError as error:
                self._begin_again_at = boot + BEGIN_AGAIN_SECONDS  # it may be a command that takes its time
                if holding.trouble is None:
                    holding.failed(IdentityMisconfigured(str(error)), boot)
                return
            reading = await self._entry.read()
            if reading is None and not holding.is_repeatable:  # nor may a seed be sent that could be used up already
                sentence = f"Not signed in as '{name}': {self._entry.trouble}"
                is_passing = self._entry.is_unavailable
                holding.stop(IssuerUnavailable(sentence) if is_passing else SignInRequired(sentence, login=name))
                return
            stored, trace = (None, Trace()) if reading is None else (reading.token_set, reading.trace)
            holding.is_begun = True
            holding.trouble = None
            holding.epoch = trace.epoch
            holding.is_seeding = holding.seed is not None and not holding.is_repeatable and trace.seed != holding.seed
            if holding.is_seeding:
                return
            if stored is not None and self._suits(stored):
                holding.publish(stored)
                return
            if stored is not None:
                self._emit(Warned(f"The stored sign-in of '{name}' is of another issuer or grant and is not used."))
            if not holding.is_repeatable:
                holding.stop(SignInRequired(holding.not_signed_in(), login=name))

    async def look(self) -> None:
        """Take up what another process did to our entry since we last read or wrote it."""
        async with self._entry.turn:
            _ = await self.look_within_turn()

    async def look_within_turn(self) -> Reading | None:
        """Do the same for one who has the turn already, and return what is stored; None if it cannot be read."""
        reading = await self._entry.read()
        if reading is None:
            return None
        holding, name, stored, epoch = self._holding, self._identity.name, reading.token_set, reading.trace.epoch
        if stored is None and epoch > holding.epoch:
            self._vanished(epoch, was_ours=reading.was_known)
        if stored is None or not reading.is_news or stored.epoch < holding.epoch:
            return reading
        if not self._suits(stored):
            self._emit(Warned(f"A new stored sign-in of '{name}' is of another issuer or grant."))
            return reading
        is_new = stored.epoch > holding.epoch or holding.held is None
        self._entry.nothing_to_save()
        holding.publish(stored)
        if is_new:
            self._emit(SignedIn(name, stored.username, stored.is_offline))
        return reading

    async def adopt(self, token_set: TokenSet) -> None:
        """Take up an explicit sign-in that was made in this process: a new epoch, which ends every flight's say."""
        holding = self._holding
        async with self._entry.turn:
            reading = await self.look_within_turn()
            if reading is not None and reading.token_set == token_set:
                return  # the sign-in had stored it itself
            holding.is_begun = True
            holding.epoch = max(holding.epoch, 0 if reading is None else reading.trace.epoch) + 1
            adopted = replace(token_set, epoch=holding.epoch, seed=token_set.seed or holding.seed)
            await self._entry.save(adopted)
            holding.publish(adopted)
        self._emit(SignedIn(self._identity.name, adopted.username, adopted.is_offline))

    def is_ours(self, stored: TokenSet) -> bool:
        """Return whether our issuer issued it; another one's tokens would be shown to a stranger (S27)."""
        return stored.issuer in (None, issuer_name(self._identity))

    def _suits(self, stored: TokenSet) -> bool:
        """Return whether a stored set is one that this configuration could have obtained.

        A service account's set is not a person's, and one service account's is not another's.
        """
        if not self.is_ours(stored):
            return False
        if self._holding.is_repeatable:
            return stored.seed == self._holding.seed or (stored.seed is None and stored.grant == self._identity.grant)
        return stored.grant not in grants.REPEATABLE

    def _vanished(self, epoch: int, *, was_ours: bool) -> None:
        """Another process signed out; unless we only now learn of a sign-out that was before our time."""
        holding = self._holding
        if was_ours:
            holding.forget(epoch, f"Signed out of '{self._identity.name}' elsewhere")
            self._emit(SignedOut(self._identity.name))
            return
        holding.epoch = epoch
        if holding.held is not None:
            holding.held = replace(holding.held, epoch=epoch)
