"""Several real processes on one token store, at a Keycloak that ends a session whose refresh token comes twice."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.tokens import claims
from tests.command import Serving, bearerproxy, login, serving
from tests.keycloak.person import Person
from tests.keycloak.server import Keycloak, Realm
from tests.keycloak.services import services
from tests.poll import eventually

pytestmark = [pytest.mark.keycloak, pytest.mark.chromium, pytest.mark.long]

CSV = "/provena/data/demo/coral-cover.csv"
LIFE_SECONDS = 3
CLIENT = "client-tools"


@dataclass
class Traffic:
    """What callers of all processes got until `is_over`."""

    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    served: int = 0
    failures: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    async def read(self, proxy: Serving) -> None:
        while not self.is_over.is_set():
            answer = await proxy.get(CSV)
            self.served += 1
            if answer.status_code != 200:
                self.failures.append(f"{answer.status_code} {answer.text}")
            await SystemClock().sleep(0.05)

    async def print_tokens(self, config: Path) -> None:
        """Run `bearerproxy token` again and again, as a cron job would."""
        while not self.is_over.is_set():
            began = SystemClock().wall()  # the process itself may take a second of the three to end
            ended = await bearerproxy("token", "provena", "--config", config)
            if ended.exit_status:
                self.failures.append(ended.complaint)
                continue
            said = claims(ended.output)
            self.tokens.add(str(said["jti"]))
            if said["exp"] <= began:
                self.failures.append(f"a token that has ended: {said}")
            await SystemClock().sleep(0.5)


async def test_a36_t13_two_servers_a_cron_job_and_a_sign_in_on_one_store(
    keycloak: Keycloak, person: Person, tmp_path: Path, is_long: bool
) -> None:
    """Fifty rounds of renewal (six in the short run): no refresh token is spent twice and no request fails."""
    rounds = 50 if is_long else 6
    realm = keycloak.fresh_realm({"accessTokenLifespan": LIFE_SECONDS, "revokeRefreshToken": True})
    config = tmp_path / "proxy.toml"
    async with services(realm) as there:
        config.write_text(f"""
            [provena]
            issuer = "{realm.issuer}"
            data = "{there.data}"
            [store]
            kind = "file"
            path = "{tmp_path / "store"}"
        """)
        await sign_in(config, person)
        traffic = Traffic()
        async with serving(config) as one, serving(config) as other, asyncio.TaskGroup() as callers:
            for work in (traffic.read(one), traffic.read(other), traffic.print_tokens(config)):
                _ = callers.create_task(work)
            await rounds_seen(realm, rounds // 2)
            await sign_in(config, person)
            await rounds_seen(realm, rounds)
            traffic.is_over.set()
        assert traffic.failures == []
        assert realm.events("REFRESH_TOKEN_ERROR", CLIENT) == []
        assert traffic.served > rounds
        assert len(traffic.tokens) > 1
        for proxy in (one, other):
            assert not [event for event in proxy.events if event["event"] == "relayed" and event["is_replay"]]


async def sign_in(config: Path, person: Person) -> None:
    async with login("provena", "--config", config) as waiting:
        await person.approve(waiting.link)
        ended = await waiting.end()
    assert ended.exit_status == 0, ended.complaint


async def rounds_seen(realm: Realm, rounds: int) -> None:
    """Return once Keycloak has seen so many renewals."""

    async def are_seen() -> bool:
        return len(await asyncio.to_thread(realm.events, "REFRESH_TOKEN", CLIENT)) >= rounds

    await eventually(are_seen, 30 + rounds * LIFE_SECONDS, every=0.5, what=f"{rounds} renewals")
