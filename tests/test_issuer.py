import asyncio
import base64
import contextlib
import json
import socket
from email.utils import formatdate
from typing import Any, Self

import httpx2
import pytest

from proxy.clock import ManualClock
from proxy.errors import BearerproxyError, GrantRefused, IdentityMisconfigured, IssuerUnavailable
from proxy.identities import Endpoints, Network
from proxy.issuer import Issuer, StillPending, calls, for_people
from proxy.issuer import issuer as requests
from proxy.issuer.calls import ANSWER_LIMIT
from proxy.secret_refs import Secret
from tests.poll import eventually
from tests.scripted_issuer import BASE, CONNECT, DEVICE, ScriptedIssuer, error, identity

REFRESH = [("grant_type", "refresh_token"), ("refresh_token", "canary-refresh-0")]
GOOD = {"access_token": "canary-access", "token_type": "Bearer", "expires_in": 300}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_750_000_000.0)


@pytest.fixture
def scripted() -> ScriptedIssuer:
    issuer = ScriptedIssuer()
    issuer.live.add("canary-refresh-0")
    return issuer


async def failure(issuer: Issuer) -> BearerproxyError:
    with pytest.raises(BearerproxyError) as caught:
        await issuer.token_request(REFRESH)
    assert "canary" not in str(caught.value)
    return caught.value


async def test_good_answer_becomes_a_set(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    fresh = await scripted.at(clock).token_request(REFRESH)

    assert fresh.expires_at == clock.wall() + 300
    assert fresh.boot_deadline == clock.boot() + 300
    assert fresh.refresh_token == "canary-refresh-1"
    assert fresh.refresh_expires_at == clock.wall() + 1800
    assert (fresh.client_id, fresh.grant, fresh.issuer) == ("client-tools", "device_code", BASE)
    assert fresh.scope == "profile email"


async def test_life_counts_from_the_start_of_the_request(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """A slow answer is not a longer life, by either clock (T6)."""

    async def slow(form: dict[str, str]) -> httpx2.Response:
        await clock.advance(7)
        return scripted.judge(form)

    wall, boot = clock.wall(), clock.boot()
    scripted.script.append(slow)
    fresh = await scripted.at(clock).token_request(REFRESH)

    assert (fresh.expires_at, fresh.boot_deadline) == (wall + 300, boot + 300)


@pytest.mark.parametrize(
    ("said", "life"),
    [
        ({"expires_in": "60"}, 60),
        ({"expires_in": None}, 300),
        ({"token_type": "bearer"}, 300),
        ({"expires_in": 5.5}, 5.5),
        ({"expires_in": 0}, 0),  # it ended at an issuer that was slow; the refresh token beside it is good
        ({"expires_in": -5}, 0),
    ],
)
async def test_odd_but_usable_answers(
    scripted: ScriptedIssuer, clock: ManualClock, said: dict[str, object], life: float
) -> None:
    """Lower-case `bearer`, numbers as text, and no `expires_in`: a short default, never "no expiry"."""
    scripted.script.append(httpx2.Response(200, json=GOOD | said))

    assert (await scripted.at(clock).token_request(REFRESH)).life == life


async def test_offline_refresh_token_has_an_unknown_end(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """Keycloak's `refresh_expires_in: 0` is not "already over" and not "never"."""
    scripted.refresh_life = 0

    assert (await scripted.at(clock).token_request(REFRESH)).refresh_expires_at is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, json=GOOD | {"access_token": None}),
        httpx2.Response(200, json=GOOD | {"access_token": ""}),
        httpx2.Response(200, json=GOOD | {"access_token": "canary\r\nx: y"}),
        httpx2.Response(200, json=GOOD | {"access_token": "cänary"}),
        httpx2.Response(200, json=GOOD | {"token_type": "DPoP"}),
        httpx2.Response(200, json=GOOD | {"error": "invalid_grant"}),
        httpx2.Response(200, json=GOOD | {"expires_in": "soon"}),
        httpx2.Response(200, json=GOOD | {"expires_in": True}),
        httpx2.Response(200, json=["canary"]),
        httpx2.Response(200, text='{"access_token": "cana', headers={"content-type": "application/json"}),
        httpx2.Response(200, html="<form>Hotel Wi-Fi</form>"),
        httpx2.Response(200, html=json.dumps(GOOD)),
        httpx2.Response(200, content=json.dumps(GOOD)),
        httpx2.Response(200),
        httpx2.Response(200, json=GOOD | {"padding": "x" * ANSWER_LIMIT}),
        httpx2.Response(302, headers={"location": "https://elsewhere.example.org/"}),
        httpx2.Response(400),
        httpx2.Response(400, html="<h1>Bad Request</h1>"),
        httpx2.Response(400, html=json.dumps({"error": "invalid_grant"})),
        httpx2.Response(400, json={"error": 7}),
        httpx2.Response(400, json={"error": "no_such_code", "error_description": "canary-refresh-0"}),
        httpx2.Response(408),
        httpx2.Response(429, json={"error": "invalid_grant"}),
        httpx2.Response(500, json={"error": "invalid_grant"}),
        httpx2.Response(503),
        httpx2.ConnectError("Connection refused"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("peer closed connection"),
    ],
    ids=repr,
)
async def test_t4_no_token_and_no_refusal(
    scripted: ScriptedIssuer, clock: ManualClock, answer: httpx2.Response | httpx2.TransportError
) -> None:
    """Nothing of this says that the grant has ended: it is never taken for a token and never for a refusal (S46)."""
    scripted.script.append(answer)

    assert isinstance(await failure(scripted.at(clock)), IssuerUnavailable)
    assert scripted.token_calls == 1


async def test_t4_a_redirect_is_not_followed(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """Neither a token nor a secret goes where an answer points (S29, S46)."""
    scripted.script.append(httpx2.Response(307, headers={"location": "https://elsewhere.example.org/"}))
    await failure(scripted.at(clock))

    assert {request.url.host for request in scripted.requests} == {"auth.example.org"}


@pytest.mark.parametrize("status", [400, 401])
async def test_invalid_grant_is_final(scripted: ScriptedIssuer, clock: ManualClock, status: int) -> None:
    """T17: Keycloak's versions differ in the status, never in the code."""
    scripted.script.append(error("invalid_grant", "Session not active", status=status))
    refused = await failure(scripted.at(clock))

    assert isinstance(refused, GrantRefused)
    assert (refused.code, refused.description) == ("invalid_grant", "Session not active")


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        (error("invalid_client", status=401), "check client_id and client_secret"),
        (error("unauthorized_client", status=401), "check client_secret"),
        (error("unauthorized_client"), "choose a grant"),
        (error("unsupported_grant_type"), "choose another grant"),
        (error("invalid_scope"), "check scope"),
    ],
)
async def test_configuration_errors_name_the_key(
    scripted: ScriptedIssuer, clock: ManualClock, answer: httpx2.Response, cure: str
) -> None:
    """T16: the sentence says what to change."""
    scripted.script.append(answer)
    refused = await failure(scripted.at(clock))

    assert isinstance(refused, IdentityMisconfigured)
    assert cure in refused.detail
    assert "[identity.provena]" in refused.detail


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry-after": "17"}, 17),
        ({"retry-after": "999999999999"}, 3600),
        ({"retry-after": formatdate(1_750_000_090, usegmt=True)}, 90),
        ({"retry-after": formatdate(1_750_000_090, usegmt=True), "date": formatdate(1_750_000_060, usegmt=True)}, 30),
        ({"retry-after": formatdate(1_749_999_000, usegmt=True)}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(
    scripted: ScriptedIssuer, clock: ManualClock, status: int, fields: dict[str, str], seconds: int | None
) -> None:
    """T3: seconds and dates, at most an hour; a date counts from the issuer's own clock where it tells the time."""
    scripted.script.append(httpx2.Response(status, headers=fields))
    refused = await failure(scripted.at(clock))

    assert isinstance(refused, IssuerUnavailable)
    assert refused.retry_after == seconds


async def test_description_is_cleaned(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """An issuer that echoes the secret, colours the terminal or writes a novel gets none of it shown."""
    scripted.script.append(error("invalid_grant", "\x1b[31mcanary-refresh-0\r\nis bad " + "x" * 500))
    refused = await failure(scripted.at(clock))

    assert isinstance(refused, GrantRefused)
    assert refused.description.startswith("[31m… is bad xxx")
    assert len(refused.description) == 200


def test_for_people() -> None:
    assert for_people("a\x00b\u202e c") == "a b c"


# --- client authentication


async def test_public_client_names_itself_in_the_body(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    await scripted.at(clock).token_request(REFRESH)

    assert scripted.forms[0]["client_id"] == "client-tools"
    assert "authorization" not in scripted.requests[-1].headers


async def test_confidential_client_uses_basic_form_encoded(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """RFC 6749 2.3.1: both halves are form-encoded first, or secrets with + : % & fail."""
    who = identity(client_id="svc:1", client_secret=Secret.parse("p+ss:w%rd &ä", literal=True))
    await scripted.at(clock, who).token_request(REFRESH)
    scheme, _, pair = scripted.requests[-1].headers["authorization"].partition(" ")

    assert scheme == "Basic"
    assert base64.b64decode(pair) == b"svc%3A1:p%2Bss%3Aw%25rd+%26%C3%A4"
    assert "client_secret" not in scripted.forms[0]


@pytest.mark.parametrize(
    ("styles", "field"),
    [
        (["client_secret_post"], "client_secret"),
        (["client_secret_post", "client_secret_basic"], None),
        ([], None),
    ],
)
async def test_style_follows_the_metadata(
    scripted: ScriptedIssuer, clock: ManualClock, styles: list[str], field: str | None
) -> None:
    scripted.metadata["token_endpoint_auth_methods_supported"] = styles
    await scripted.at(clock, identity(client_secret=Secret.parse("hush", literal=True))).token_request(REFRESH)

    assert (field in scripted.forms[0]) is (field is not None)
    assert ("authorization" in scripted.requests[-1].headers) is (field is None)


async def test_secret_is_never_sent_for_another_client(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """A set that was obtained with the offline client is renewed as that client, which has no secret of ours."""
    issuer = scripted.at(clock, identity(client_secret=Secret.parse("hush", literal=True)))
    await issuer.token_request(REFRESH, client_id="automated-access")

    assert scripted.forms[0]["client_id"] == "automated-access"
    assert "authorization" not in scripted.requests[-1].headers


async def test_echoed_client_secret_is_not_shown(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    scripted.script.append(error("invalid_client", "canary secret wrong", status=401))
    who = identity(client_secret=Secret.parse("canary secret", literal=True))

    assert "(invalid_client: … wrong)" in str(await failure(scripted.at(clock, who)))


async def test_extra_parameters_may_repeat(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """RFC 8707 allows several `resource`."""
    extra = (("resource", "urn:a"), ("resource", "urn:b"))
    await scripted.at(clock, identity(extra=extra)).token_request(REFRESH)

    assert [pair for pair in scripted.pairs[0] if pair[0] == "resource"] == list(extra)


async def test_request_asks_for_nothing_compressed(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """S32, S46."""
    await scripted.at(clock).token_request(REFRESH)
    fields = scripted.requests[-1].headers

    assert fields["accept-encoding"] == "identity"
    assert fields["content-type"] == "application/x-www-form-urlencoded"
    assert "cookie" not in fields


# --- endpoints


async def test_metadata_are_fetched_once(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    issuer = scripted.at(clock)
    scripted.rotates = False
    await issuer.token_request(REFRESH)
    await issuer.token_request(REFRESH)

    assert scripted.calls["openid-configuration"] == 1


async def test_older_metadata_address(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """RFC 8414 3.1 puts the well-known word in front of the issuer's path."""

    async def oauth_only(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/.well-known/oauth-authorization-server/auth/realms/rrap":
            return httpx2.Response(200, json=scripted.metadata)
        return httpx2.Response(404)

    issuer = Issuer(identity(), clock=clock, http=httpx2.MockTransport(oauth_only))

    assert await issuer.endpoint("token") == f"{CONNECT}/token"


async def test_override_needs_no_metadata(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    scripted.metadata = {}
    who = identity(endpoints=Endpoints(token=f"{CONNECT}/token"), issuer=None)
    fresh = await scripted.at(clock, who).token_request(REFRESH)

    assert scripted.calls["openid-configuration"] == 0
    assert fresh.issuer == f"{CONNECT}/token"


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"issuer": f"{BASE}/"}, "only the slash at the end differs"),
        ({"issuer": "https://evil.example.org"}, "calls itself https://evil.example.org"),
        ({"issuer": None}, "calls itself nothing"),
        ({"token_endpoint": "https://evil.example.org/token"}, "on another host, evil.example.org"),
        ({"token_endpoint": "http://auth.example.org/token"}, "on another host"),
        ({"token_endpoint": "https://auth.example.org@evil.example.org/token"}, "on another host"),
        ({"token_endpoint": None}, "has no token endpoint"),
    ],
)
async def test_metadata_that_cannot_be_trusted(
    scripted: ScriptedIssuer, clock: ManualClock, metadata: dict[str, str | None], sentence: str
) -> None:
    """Compared exactly, and no endpoint elsewhere unless it is configured (RFC 8414 3.3, S38); nothing is sent."""
    scripted.metadata |= metadata
    refused = await failure(scripted.at(clock))

    assert isinstance(refused, IdentityMisconfigured)
    assert sentence in refused.detail
    assert scripted.token_calls == 0


async def test_metadata_outage_is_transient(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    """T29: asked for again with the next call."""
    issuer = scripted.at(clock)
    scripted.is_down = True
    assert isinstance(await failure(issuer), IssuerUnavailable)

    scripted.is_down = False
    assert (await issuer.token_request(REFRESH)).refresh_token == "canary-refresh-1"


async def test_ca_file_that_is_missing(clock: ManualClock) -> None:
    refused = await failure(Issuer(identity(network=Network(ca_file="/nowhere/ca.pem")), clock=clock))

    assert isinstance(refused, IdentityMisconfigured)
    assert "/nowhere/ca.pem" in refused.detail


# --- the other endpoints


async def test_device_authorization(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    del scripted.device["interval"], scripted.device["verification_uri_complete"]
    told = await scripted.at(clock).device_authorization("profile", [("code_challenge", "x")])

    assert (told.user_code, told.interval, told.verification_uri_complete) == ("ABCD-EFGH", 5.0, None)
    assert "canary" not in repr(told)
    assert scripted.pairs[0] == [("scope", "profile"), ("code_challenge", "x"), ("client_id", "client-tools")]


@pytest.mark.parametrize(
    "said", [{"user_code": "\x1b[2J"}, {"verification_uri": "javascript:1"}, {"device_code": None}, {"expires_in": 0}]
)
async def test_device_answer_that_cannot_be_shown(
    scripted: ScriptedIssuer, clock: ManualClock, said: dict[str, object]
) -> None:
    scripted.device |= said

    with pytest.raises(IssuerUnavailable):
        await scripted.at(clock).device_authorization(None)


@pytest.mark.parametrize(("code", "is_too_fast"), [("authorization_pending", False), ("slow_down", True)])
async def test_device_polls(scripted: ScriptedIssuer, clock: ManualClock, code: str, is_too_fast: bool) -> None:
    scripted.script.append(error(code))

    with pytest.raises(StillPending) as caught:
        await scripted.at(clock).token_request([("grant_type", DEVICE), ("device_code", "canary-device-code")])
    assert caught.value.is_too_fast is is_too_fast


async def test_revocation(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    await scripted.at(clock).revoke("canary-refresh-0", client_id="automated-access")

    assert scripted.revoked == ["canary-refresh-0"]


async def test_revocation_that_fails(scripted: ScriptedIssuer, clock: ManualClock) -> None:
    scripted.is_down = True

    with pytest.raises(IssuerUnavailable):
        await scripted.at(clock).revoke("canary-refresh-0")


# --- over real sockets: what a transport handed in cannot show


class Raw:
    """A server that answers every request with the same bytes, after its head has come."""

    def __init__(self, answer: bytes, *, keeps_open: bool = False) -> None:
        self.answer = answer
        self._keeps_open = keeps_open
        self.connections = 0
        self.open = 0
        self.heads: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await eventually(lambda: self.open == 0, what="the end of every connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the caller is gone
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            while self._keeps_open:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1

    def issuer(self, clock: ManualClock, **settings: Any) -> Issuer:
        endpoints = Endpoints(token=f"http://127.0.0.1:{self.port}/token")
        return Issuer(identity(endpoints=endpoints, **settings), clock=clock)


BODY = json.dumps(GOOD).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)


async def test_real_connection(clock: ManualClock) -> None:
    """Each call has a connection of its own: after a change of network there is no stale one to fail on (T8).

    The issuer would keep it open.
    """
    async with Raw(HEAD + BODY, keeps_open=True) as server:
        issuer = server.issuer(clock)
        for _ in range(2):
            assert (await issuer.token_request(REFRESH)).access_token == "canary-access"
        await issuer.close()

    assert server.connections == 2
    assert b"user-agent: bearerproxy/" in server.heads[0].lower()


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + BODY[:9], b"nonsense\r\n\r\n"], ids=repr)
async def test_broken_connection_is_transient(clock: ManualClock, answer: bytes) -> None:
    """T4: cut before, in and behind the head, and no HTTP at all."""
    async with Raw(answer) as server:
        issuer = server.issuer(clock)
        assert isinstance(await failure(issuer), IssuerUnavailable)
        await issuer.close()


async def test_refused_connection_is_transient(clock: ManualClock) -> None:
    """T2: it costs one try, and the sentence names the address."""
    async with Raw(b"") as server:
        issuer = server.issuer(clock)
    refused = await failure(issuer)
    await issuer.close()

    assert isinstance(refused, IssuerUnavailable)
    assert f"127.0.0.1:{server.port} cannot be reached" in refused.detail


async def test_a_slow_answer_to_a_refresh_is_waited_for(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """T12: an issuer that has just started may be slow, and to give up the call could lose the successor."""
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.2)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await answered.wait()
        writer.write(HEAD + BODY)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
        endpoints = Endpoints(token=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token")
        issuer = Issuer(identity(endpoints=endpoints), clock=clock)
        refreshing = asyncio.ensure_future(issuer.token_request(REFRESH))
        await asked.wait()
        done, _ = await asyncio.wait({refreshing}, timeout=0.4)  # past the time of any other call
        answered.set()
        token_set = await refreshing
        await issuer.close()

    assert not done
    assert token_set.access_token


async def test_silent_issuer_is_given_up(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """T2: the bound is on the whole call, so that a drip of bytes cannot hold it (S46)."""
    monkeypatch.setattr(requests, "REFRESH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody answers
        endpoints = Endpoints(token=f"http://127.0.0.1:{listener.getsockname()[1]}/token")
        issuer = Issuer(identity(endpoints=endpoints), clock=clock)
        refused = await failure(issuer)
        await issuer.close()

    assert isinstance(refused, IssuerUnavailable)
    assert "did not answer" in refused.detail


async def test_environment_is_not_asked(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A32: proxies come from the configuration alone, and there they are used."""
    async with Raw(HEAD + BODY) as server, Raw(HEAD + BODY) as outbound:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{outbound.port}")
        direct = server.issuer(clock)
        await direct.token_request(REFRESH)
        await direct.close()
        assert (server.connections, outbound.connections) == (1, 0)

        proxied = server.issuer(clock, network=Network(proxy=f"http://127.0.0.1:{outbound.port}"))
        await proxied.token_request(REFRESH)
        await proxied.close()
        assert (server.connections, outbound.connections) == (1, 1)
