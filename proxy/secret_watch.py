"""Secrets that were refused: once one of them changes, a stopped identity deserves another call, without a restart.

"No retry until it changes" (token-life T16) is about the issuer. What a reference leads to is ours to look at: now and
then, and only while the identity is stopped.
"""

import asyncio
import math

from proxy import grants
from proxy.clock import Clock
from proxy.errors import SecretError
from proxy.holding import Holding
from proxy.issuer import Issuer, digest, revealed
from proxy.renewal import Trouble
from proxy.secret_refs import Secret
from proxy.tasks import Tasks
from proxy.uptake import Uptake

FILE_SECONDS = 10.0
"""How often files are read again."""
OTHER_SECONDS = 60.0
"""The same for a keyring, a command or a service."""


class SecretWatch:
    """Looks at the secrets of one identity while it is stopped; `tick` is called each second or so."""

    def __init__(self, holding: Holding, uptake: Uptake, issuer: Issuer, *, tasks: Tasks, clock: Clock) -> None:
        self._holding = holding
        self._uptake = uptake
        self._issuer = issuer
        self._tasks = tasks
        self._clock = clock
        self._looked_at = -math.inf
        self._looking: asyncio.Task[None] | None = None

    def tick(self) -> None:
        """Start a look if it is time for one; a command may take a while, so nothing waits for it."""
        trouble, boot = self._holding.trouble, self._clock.boot()
        if trouble is None or not trouble.is_final or (self._looking is not None and not self._looking.done()):
            return
        seed = self._holding.identity.refresh_token
        secrets = [*self._issuer.shown, *([] if seed is None else [seed])]
        pause = _pause(secrets)
        if boot >= max(trouble.since, self._looked_at) + pause:
            self._looked_at = boot
            self._looking = self._tasks.start(self._look(trouble), name="look at secrets")

    async def _look(self, trouble: Trouble) -> None:
        try:
            is_other_seed = await self._is_other_seed()
            is_other_secret = await self._is_other_secret()
        except SecretError:
            return  # as while it is being replaced; why the identity is stopped has been told
        if self._holding.trouble is not trouble:
            return  # a person or another process was quicker
        if is_other_seed:
            await self._uptake.begin()  # as a restart would
        elif is_other_secret:
            self._holding.trouble = None

    async def _is_other_seed(self) -> bool:
        identity = self._holding.identity
        return identity.refresh_token is not None and await grants.fingerprint(identity) != self._holding.seed

    async def _is_other_secret(self) -> bool:
        seed = self._holding.identity.refresh_token
        for secret, seen in self._issuer.shown.items():
            if secret != seed and not _is_fixed(secret) and digest(await revealed(secret)) != seen:
                return True
        return False


def _pause(secrets: list[Secret]) -> float:
    """Return how long to leave `secrets` alone; for ever if none of them can change while we run."""
    references = [secret.reference for secret in secrets if not _is_fixed(secret)]
    if not references:
        return math.inf
    return FILE_SECONDS if all(one.startswith("file:") for one in references) else OTHER_SECONDS


def _is_fixed(secret: Secret) -> bool:
    return secret.is_literal or secret.variable is not None
