import pytest

from proxy import grants
from proxy.clock import ManualClock
from proxy.errors import IdentityMisconfigured
from proxy.grants import refresh_token
from proxy.identities import Grant
from proxy.secret_refs import Secret
from proxy.tokens import TokenSet
from tests.scripted_issuer import BASE, ScriptedIssuer, identity


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def scripted() -> ScriptedIssuer:
    return ScriptedIssuer()


def held(scripted: ScriptedIssuer, clock: ManualClock) -> TokenSet:
    said = scripted.grant()
    return TokenSet(
        access_token=said["access_token"],
        expires_at=clock.wall() + 300,
        obtained_at=clock.wall(),
        client_id="automated-access",
        grant="device_code",
        refresh_token=said["refresh_token"],
        refresh_expires_at=clock.wall() + 1800,
        scope="roles offline_access",
        signed_in_at=1.0,
        epoch=7,
        seed="fingerprint",
        issuer=BASE,
    )


async def test_client_credentials(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    who = identity(Grant.CLIENT_CREDENTIALS, scope="sdmx", extra=(("audience", "dotstat-api"),))
    fresh = await grants.obtain(scripted.at(clock, who), who)

    assert fresh.grant == "client_credentials"
    assert scripted.forms == [
        {"grant_type": "client_credentials", "scope": "sdmx", "audience": "dotstat-api", "client_id": "client-tools"}
    ]


async def test_password(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    who = identity(Grant.PASSWORD, username="alice", password=Secret.parse("pw &=ä", literal=True))
    await grants.obtain(scripted.at(clock, who), who)

    assert scripted.forms == [
        {"grant_type": "password", "username": "alice", "password": "pw &=ä", "client_id": "client-tools"}
    ]


async def test_seed_that_is_not_rotated_is_kept(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    scripted.live.add("canary-seed")
    scripted.rotates = False
    who = identity(Grant.REFRESH_TOKEN, refresh_token=Secret.parse("canary-seed", literal=True))

    assert (await grants.obtain(scripted.at(clock, who), who)).refresh_token == "canary-seed"


async def test_renewal_keeps_what_the_sign_in_was(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """Client, grant, scope, epoch and time of the sign-in are the stored set's, whatever is configured now."""
    scripted.scope = None
    old = held(scripted, clock)
    new = await refresh_token.renew(scripted.at(clock), old)

    assert new.refresh_token != old.refresh_token
    assert (new.client_id, new.grant, new.scope) == ("automated-access", "device_code", "roles offline_access")
    assert (new.epoch, new.seed, new.signed_in_at) == (7, "fingerprint", 1.0)
    assert scripted.forms[0]["client_id"] == "automated-access"
    assert "scope" not in scripted.forms[0]


async def test_kept_refresh_token_keeps_its_end(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    scripted.rotates = False
    old = held(scripted, clock)
    await clock.advance(100)
    new = await refresh_token.renew(scripted.at(clock), old)

    assert (new.refresh_token, new.refresh_expires_at) == (old.refresh_token, old.refresh_expires_at)


async def test_renewal_of_another_user(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """T28: what comes back is compared with what was held."""
    old = held(scripted, clock)
    scripted.sub = "mallory"

    with pytest.raises(IdentityMisconfigured, match="another user"):
        await refresh_token.renew(scripted.at(clock), old)


async def test_fingerprint_is_of_what_signs_in() -> None:
    """A person's grant has none; a seed's changes with the seed, its client and its issuer, and shows nothing of it."""
    assert await grants.fingerprint(identity()) is None

    seed = Secret.parse("canary-seed", literal=True)
    seeds = [
        identity(refresh_token=seed),
        identity(refresh_token=Secret.parse("canary-two", literal=True)),
        identity(refresh_token=seed, client_id="other"),
        identity(refresh_token=seed, issuer="https://elsewhere.example.org"),
        identity(Grant.CLIENT_CREDENTIALS),
        identity(Grant.CLIENT_CREDENTIALS, scope="sdmx"),
    ]
    prints = [await grants.fingerprint(one) for one in seeds]

    assert len(set(prints)) == len(seeds)
    assert "canary" not in str(prints)
    assert await grants.fingerprint(identity(Grant.REFRESH_TOKEN, refresh_token=seed)) == prints[0]
