"""Whether what was said is so: does the address answer, is the issuer who it says, may the client sign somebody in.

Nothing here needs a sign-in, and nothing of a person's is sent: hosts get a GET, issuers a question for their metadata,
for a code that nobody confirms (RFC 8628 3.1) or for their sign-in page.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlencode, urlsplit

from proxy import grants
from proxy.clock import SystemClock
from proxy.config.addresses import parse_url
from proxy.errors import BearerproxyError, IdentityMisconfigured, ProxyError
from proxy.grants.loopback import PATH
from proxy.grants.pkce import Proof
from proxy.headers import Fields, first
from proxy.identities import Grant, Identity, Network
from proxy.init.answers import Answers, Service
from proxy.init.surroundings import Surroundings
from proxy.init.ways import Failed, Way, way_to
from proxy.issuer import Issuer, for_people
from proxy.secret_refs import Secret
from proxy.transport.connections import Connections
from proxy.upstreams import Upstream

CALL_SECONDS = 15.0
REDIRECT_URI = f"http://127.0.0.1:8401{PATH}"
"""Such as a sign-in on a port of its own would have; which port does not matter to an issuer (RFC 8252 7.3)."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a trial made of an answer."""

    answers: Answers
    text: str
    """What was seen, in one sentence."""
    way: Way = field(default=Way())


async def try_address(answers: Answers, meanings: Sequence[Mapping[str, str]], around: Surroundings) -> Found:
    """Return the first meaning of an address at which a service answers. Raises Failed with the first one's reason."""
    failures = []
    for meaning in meanings:
        meant = replace(answers, address=meaning)
        try:
            return await _try_service(meant, around)
        except Failed as failure:
            failures.append(failure)
    raise failures[0]


async def _try_service(answers: Answers, around: Surroundings) -> Found:
    upstreams = answers.expanded().upstreams
    table = next((one for name, one in upstreams.items() if name.endswith(("_data", "_rest"))), None)
    table = table or next(iter(upstreams.values()))
    url = str(table["url"])
    # An NSI has nothing at its base; Provena's APIs have their health check there.
    path = str(table.get("probe") or "") if answers.service is Service.DOTSTAT else ""
    way = await way_to(url, around)
    status, _ = await _get(url + path, way.network)
    if status >= 500 or (status == 404 and answers.service is not Service.OTHER):
        what = "it is in trouble" if status >= 500 else f"that is no {_called(answers.service)}"
        raise Failed(f"{url} answers {status}: {what}.")
    return Found(answers, f"{url} answers.", way)


def _called(service: Service) -> str:
    return "NSI web service" if service is Service.DOTSTAT else "Provena"


async def try_issuer(answers: Answers, meanings: Sequence[Mapping[str, str]], around: Surroundings) -> Found:
    """Return the first meaning under which an issuer answers and is who it says (RFC 8414 3.3). Raises Failed."""
    failures = []
    for meaning in meanings:
        meant = replace(answers, issuer=meaning)
        url = meant.issuer_url
        way = await way_to(url, around)
        issuer = _issuer(_identity(meant, way.network))
        try:
            await issuer.endpoint("token")
        except BearerproxyError as error:
            failures.append(Failed(_without_place(str(error))))
            continue
        finally:
            await issuer.close()
        return Found(meant, f"{url} is an issuer, and says so itself.", way)
    raise failures[0]


async def try_client(answers: Answers, network: Network, *, is_chosen: bool, environ: Mapping[str, str]) -> Found:
    """Return how the client may obtain a token, as far as that shows before a sign-in. Raises Failed.

    `is_chosen` says that its grant is the person's choice; else the first that the issuer lets it use is taken.
    """
    if answers.grant is Grant.CLIENT_CREDENTIALS:
        return Found(answers, await _try_service_account(answers, network, environ))
    issuer = _issuer(_identity(answers, network))
    who = f"The client {answers.client_id}"
    failures: list[str] = []
    try:
        for grant in (answers.grant,) if is_chosen else _interactive(answers):
            try:
                await (_try_device(issuer) if grant is Grant.DEVICE_CODE else _try_code(issuer, network))
            except Failed as failure:
                failures.append(str(failure))
                cause = failure.__cause__
                if isinstance(cause, IdentityMisconfigured) and cause.code == "invalid_client":
                    break  # whoever is not known may do nothing else either
                continue
            how = "with a code that you confirm" if grant is Grant.DEVICE_CODE else "on the issuer's page"
            return Found(replace(answers, grant=grant), f"{who} may sign you in, {how}.")
    finally:
        await issuer.close()
    raise Failed(" ".join(failures))


def _interactive(answers: Answers) -> tuple[Grant, ...]:
    # Provena's clients have no redirect URI (facts of its realm), and its preset knows no other grant.
    return (Grant.DEVICE_CODE,) if answers.service is Service.PROVENA else (Grant.DEVICE_CODE, Grant.AUTHORIZATION_CODE)


async def _try_device(issuer: Issuer) -> None:
    try:
        _ = await issuer.device_authorization(issuer.identity.scope, Proof().challenge)
    except BearerproxyError as error:
        raise Failed(_without_place(str(error))) from error


async def _try_code(issuer: Issuer, network: Network) -> None:
    """Look at the sign-in page that the client would send a person to."""
    client_id = issuer.identity.client_id
    try:
        endpoint = await issuer.endpoint("authorization")
    except BearerproxyError as error:
        raise Failed(_without_place(str(error))) from error
    asked = [("response_type", "code"), ("client_id", client_id), ("redirect_uri", REDIRECT_URI), ("state", "init")]
    asked += Proof().challenge
    status, location = await _get(f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}", network)
    if status >= 400:
        # > the authorization server ... MUST NOT automatically redirect the user-agent (RFC 6749 4.1.2.1)
        raise Failed(f"The issuer refuses client '{client_id}' with the way back http://127.0.0.1:PORT{PATH}.")
    if location.startswith(REDIRECT_URI):
        said = parse_qs(urlsplit(location).query).get("error", ["an answer without a sign-in"])[0]
        raise Failed(f"The issuer refuses client '{client_id}' ({for_people(said)}).")


async def _try_service_account(answers: Answers, network: Network, environ: Mapping[str, str]) -> str:
    try:
        secret = Secret.parse(answers.client_secret or "", environ=environ)
        identity = replace(_identity(answers, network), client_secret=secret)
        issuer = _issuer(identity)
        try:
            _ = await grants.obtain(issuer, identity)
        finally:
            await issuer.close()
    except BearerproxyError as error:
        raise Failed(_without_place(str(error))) from error
    return f"The client {answers.client_id} obtains tokens by itself."


def _identity(answers: Answers, network: Network) -> Identity:
    return Identity(answers.name, answers.client_id or "", answers.grant, answers.issuer_url, network=network)


def _issuer(identity: Identity) -> Issuer:
    return Issuer(identity, clock=SystemClock())


def _without_place(text: str) -> str:
    """Return an issuer's complaint without the advice to edit a file that is not written yet."""
    sentence = text.partition("; in [")[0].partition(" If that lasts")[0]
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


async def _get(url: str, network: Network) -> tuple[int, str]:
    """Return the status and Location with which a URL answers to nobody in particular. Raises Failed."""
    parts = urlsplit(url)
    host = parse_url(f"{parts.scheme}://{parts.netloc}")
    upstream = Upstream("init", host.scheme, host.host, host.port, network=network)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields: Fields = [(b"host", upstream.authority.encode("ascii")), (b"accept", b"*/*")]
    connections = Connections(upstream)
    try:
        async with asyncio.timeout(CALL_SECONDS):
            response = await connections.send("GET", target.encode("ascii"), fields, None)
        await response.aclose()
    except TimeoutError:
        raise Failed(f"{upstream.origin} sent no answer within {CALL_SECONDS:.0f} s.") from None
    except ProxyError as error:
        raise Failed(error.detail.replace("[upstream.init]", upstream.origin)) from error
    finally:
        await connections.aclose()
    return response.status, (first(response.fields, b"location") or b"").decode("latin-1")
