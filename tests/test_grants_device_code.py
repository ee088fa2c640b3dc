import asyncio
import base64
import hashlib

import httpx2
import pytest

from proxy.clock import ManualClock, settle
from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured
from proxy.grants.device_code import DevicePrompt, sign_in
from proxy.tokens import TokenSet
from tests.scripted_issuer import DEVICE, ScriptedIssuer, error, identity


class Flow:
    """One device sign-in, with the moments of its polls."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.issuer = ScriptedIssuer()
        self.prompts: list[DevicePrompt] = []
        self.polls: list[float] = []
        self._start = self.clock.boot()

    def start(self) -> "asyncio.Future[TokenSet]":
        who = identity(scope="profile")
        judge = self.issuer.answer

        async def watched(request: httpx2.Request) -> httpx2.Response:
            if str(request.url).endswith("/token"):
                self.polls.append(self.clock.boot() - self._start)
            return await judge(request)

        self.issuer.answer = watched  # type: ignore[method-assign]
        flow = sign_in(self.issuer.at(self.clock, who), who, prompt=self.prompts.append, clock=self.clock)
        return asyncio.ensure_future(flow)

    async def fail(self, seconds: float) -> BearerproxyError:
        running = self.start()
        await self.clock.advance(seconds)
        with pytest.raises(BearerproxyError) as caught:
            await running
        assert "canary" not in f"{caught.value} {self.prompts}"
        return caught.value


@pytest.fixture
def flow() -> Flow:
    return Flow()


async def test_person_confirms(flow: Flow) -> None:
    """One prompt, polls at the interval, and none after success."""
    flow.issuer.script.extend([error("authorization_pending"), error("authorization_pending")])
    running = flow.start()
    await flow.clock.advance(600)

    assert (await running).grant == "device_code"
    assert flow.polls == [5, 10, 15]
    [prompt] = flow.prompts
    assert prompt.user_code == "ABCD-EFGH"
    assert prompt.expires_at == flow.clock.wall()


async def test_device_code_is_not_shown(flow: Flow) -> None:
    running = flow.start()
    await settle()

    assert "canary-device-code" not in repr(flow.prompts)
    await flow.clock.advance(5)
    await running


async def test_proof_key(flow: Flow) -> None:
    """PKCE on the device request too: Keycloak's clients may demand it, other issuers ignore it."""
    running = flow.start()
    await flow.clock.advance(5)
    await running
    asked, spent = (dict(pairs) for pairs in flow.issuer.pairs)
    digest = hashlib.sha256(spent["code_verifier"].encode()).digest()

    assert asked["code_challenge_method"] == "S256"
    assert asked["code_challenge"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert asked["scope"] == "profile"
    assert (spent["grant_type"], spent["device_code"]) == (DEVICE, "canary-device-code")


async def test_slow_down_is_for_good(flow: Flow) -> None:
    """RFC 8628 3.5: five seconds more for this and all later polls."""
    flow.issuer.script.extend([error("slow_down"), error("authorization_pending"), error("slow_down")])
    running = flow.start()
    await flow.clock.advance(600)
    await running

    assert flow.polls == [5, 15, 25, 40]


async def test_no_interval_means_five_seconds(flow: Flow) -> None:
    del flow.issuer.device["interval"]
    running = flow.start()
    await flow.clock.advance(5)
    await running

    assert flow.polls == [5]


async def test_unreachable_issuer_is_polled_less(flow: Flow) -> None:
    """Time-outs double the pause; contact brings the interval back."""
    flow.issuer.script.extend(
        [httpx2.ReadTimeout("slow"), httpx2.ConnectError("refused"), error("authorization_pending")]
    )
    running = flow.start()
    await flow.clock.advance(600)
    await running

    assert flow.polls == [5, 15, 35, 40]


@pytest.mark.parametrize("code", ["access_denied", "expired_token", "invalid_grant"])
async def test_refusal_ends_it(flow: Flow, code: str) -> None:
    flow.issuer.script.append(error(code))
    refused = await flow.fail(600)

    assert isinstance(refused, GrantRefused)
    assert refused.code == code
    assert flow.polls == [5]


async def test_nobody_confirms(flow: Flow) -> None:
    """Polling stops when the code ends, whatever the issuer would say."""
    flow.issuer.device["expires_in"] = 30
    flow.issuer.script.extend(error("authorization_pending") for _ in range(99))
    refused = await flow.fail(31)

    assert isinstance(refused, GrantRefused)
    assert refused.code == "expired_token"
    assert flow.polls == [5, 10, 15, 20, 25]


async def test_grant_that_is_switched_off(flow: Flow) -> None:
    flow.issuer.device_script.append(error("unauthorized_client", "Client is not allowed to use device flow"))
    refused = await flow.fail(1)

    assert isinstance(refused, IdentityMisconfigured)
    assert flow.prompts == []
