import asyncio
import base64
import hashlib
import logging
from collections.abc import Sequence

import httpx2
import pytest

from proxy.clock import ManualClock, SystemClock, settle
from proxy.demo import Demo
from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured
from proxy.grants.device_code import DevicePrompt, sign_in
from proxy.issuer import Issuer
from proxy.tokens import TokenSet
from tests.poll import eventually
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
    """A44, T27: one prompt, polls at the interval, and none after success."""
    flow.issuer.script.extend([error("authorization_pending"), error("authorization_pending")])
    running = flow.start()
    await flow.clock.advance(600)

    assert (await running).grant == "device_code"
    assert flow.polls == [5, 10, 15]
    [prompt] = flow.prompts
    assert prompt.user_code == "ABCD-EFGH"
    assert prompt.expires_at == flow.clock.wall()


async def test_device_code_is_not_shown(flow: Flow) -> None:
    """A44: the user code is for people, the device code for nobody."""
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
    """A44, T27: five seconds more for this and all later polls."""
    flow.issuer.script.extend([error("slow_down"), error("authorization_pending"), error("slow_down")])
    running = flow.start()
    await flow.clock.advance(600)
    await running

    assert flow.polls == [5, 15, 25, 40]


async def test_no_interval_means_five_seconds(flow: Flow) -> None:
    """A44: RFC 8628 3.2 has it as an optional field."""
    del flow.issuer.device["interval"]
    running = flow.start()
    await flow.clock.advance(5)
    await running

    assert flow.polls == [5]


async def test_unreachable_issuer_is_polled_less(flow: Flow) -> None:
    """A44, T27: time-outs double the pause; contact brings the interval back."""
    flow.issuer.script.extend(
        [httpx2.ReadTimeout("slow"), httpx2.ConnectError("refused"), error("authorization_pending")]
    )
    running = flow.start()
    await flow.clock.advance(600)
    await running

    assert flow.polls == [5, 15, 35, 40]


@pytest.mark.parametrize("code", ["access_denied", "expired_token", "invalid_grant"])
async def test_refusal_ends_it(flow: Flow, code: str) -> None:
    """A44, T27: one more poll could not change it."""
    flow.issuer.script.append(error(code))
    refused = await flow.fail(600)

    assert isinstance(refused, GrantRefused)
    assert refused.code == code
    assert flow.polls == [5]


async def test_nobody_confirms(flow: Flow) -> None:
    """A44, T27: polling stops when the code ends, whatever the issuer would say."""
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


async def test_a44_no_code_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    """Over real sockets with every library's log at its most talkative (S40)."""
    caplog.set_level(logging.DEBUG)
    clock, prompts = SystemClock(), list[DevicePrompt]()
    async with Demo() as demo:
        who = identity(issuer=demo.issuer_url)
        issuer = Issuer(who, clock=clock)
        asked: list[str] = []
        spend = issuer.token_request

        async def overheard(params: Sequence[tuple[str, str]], *, client_id: str | None = None) -> TokenSet:
            asked.append(dict(params)["device_code"])
            return await spend(params, client_id=client_id)

        issuer.token_request = overheard  # type: ignore[method-assign]
        running = asyncio.ensure_future(sign_in(issuer, who, prompt=prompts.append, clock=clock))
        await eventually(lambda: prompts, what="the code")
        demo.issuer.approve(prompts[0].user_code)
        token_set = await running
        await issuer.close()

    assert caplog.records
    for secret in (asked[0], token_set.access_token, token_set.refresh_token):
        assert secret
        assert secret not in caplog.text


async def test_a44_no_poll_after_success(flow: Flow) -> None:
    """Some issuers revoke the grant when a used code comes again (T27): one code, one poller, one success."""
    flow.issuer.script.extend([error("slow_down"), httpx2.ReadTimeout("slow"), error("authorization_pending")])
    running = flow.start()
    await flow.clock.advance(600)
    assert (await running).access_token
    polls = list(flow.polls)
    await flow.clock.advance(600)

    assert polls == [5, 15, 35, 45]
    assert flow.polls == polls
