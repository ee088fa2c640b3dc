"""The page behind each problem's `type`: what it means, what usually causes it, what to do next.

One entry for each class of proxy.errors.PROXY_ERRORS, and one for the failure that should not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.errors import PROXY_ERRORS, ProxyError

_ALL: tuple[type[ProxyError], ...] = (*PROXY_ERRORS, ProxyError)
KINDS: Mapping[str, type[ProxyError]] = {one.kind: one for one in _ALL}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, with the command that does it where there is one."""

    text: str
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a person who met this failure wants to know."""

    meaning: str
    causes: tuple[str, ...]
    steps: tuple[Step, ...]
    sharper: tuple[int, ...] = ()
    """Statuses that the failure has in special cases, besides that of its class."""
    is_upstream_reached: bool = False
    """True if the upstream may have seen the request: a write may have happened."""


EXPLANATIONS: Mapping[str, Explanation] = {
    "caller-refused": Explanation(
        "bearerproxy adds your token to what it relays, so it lets in only programs on this machine that ask for it by "
        "its own name. This request came from elsewhere, named another host, or was made by a web page.",
        (
            "The tool uses a host name or a port in its base URL that bearerproxy does not know as its own.",
            "A web page in a browser, or a link on one, tried to use the proxy.",
            "The request came from another machine while bearerproxy serves this one alone.",
        ),
        (
            Step("Use a base URL exactly as bearerproxy prints it.", "bearerproxy urls"),
            Step("Does a container or a reverse proxy need another name? Add it to allowed_hosts of [server]."),
            Step("Is it a web page of yours? Add its exact origin to allowed_origins of [server]."),
        ),
    ),
    "bad-request": Explanation(
        "The request is malformed, or can be read in two ways. bearerproxy relays a request exactly as it was sent or "
        "not at all; it does not guess.",
        (
            "The path holds a space, a letter outside ASCII or a '%' that is not an encoding.",
            "The path holds '.' or '..'; an SDMX key made of dots alone looks the same.",
            "The base URL ends with a slash and the tool adds another one, so that the path starts with '//'.",
            "The URL or a header field is too long (414, 431), or the request's framing contradicts itself.",
            "The URL carries an access_token=: bearerproxy adds the token by itself.",
        ),
        (
            Step("Read the sentence in the answer: it names the part that is wrong."),
            Step("Percent-encode what a URL may not hold, and write 'all' for an SDMX key of dots alone."),
        ),
        sharper=(414, 431, 505),
    ),
    "no-upstream": Explanation(
        "The path does not begin with one of the mounts, so bearerproxy does not know where to send the request.",
        (
            "A typing mistake in the base URL.",
            "The mount was renamed, or another configuration file is in use.",
            "The service's own address was used with the host replaced, but without the mount in front of its path.",
        ),
        (
            Step("Compare the path with the base URLs.", "bearerproxy urls"),
            Step("See which configuration is in use.", "bearerproxy config show"),
        ),
    ),
    "not-allowed": Explanation(
        "The configuration of this mount forbids the method (405) or the path (403). The request was not sent.",
        (
            "The mount is read_only and the request would write.",
            "The method is missing from the methods of the upstream.",
            "The path is listed under deny of the upstream.",
        ),
        (
            Step("See what the mount allows.", "bearerproxy config show"),
            Step("Change read_only, methods or deny of [upstream.NAME] if the request is meant to pass."),
        ),
        sharper=(405,),
    ),
    "not-found": Explanation(
        "The data store knows no dataset of this handle, or the dataset holds no file of this name.",
        (
            "A typing mistake in the handle or the path; upper and lower case matter in both.",
            "The file was renamed or removed in a newer version of the dataset.",
            "The name holds a '+', '#', '%' or '?' that was not percent-encoded in the URL.",
        ),
        (
            Step("List what the dataset holds.", "bearerproxy datasets ls HANDLE"),
            Step("Look the handle up by name.", "bearerproxy datasets find TEXT"),
        ),
        is_upstream_reached=True,
    ),
    "not-permitted": Explanation(
        "You are signed in, but the dataset is not open to you, or your account lacks the role that reads it.",
        (
            "The owner has not given you, or a group of yours, access to this dataset.",
            "Your account has not been given the role entity-registry-read yet.",
        ),
        (
            Step("Ask the person whom the answer names for access to the dataset."),
            Step("Request the role in the service's own pages, then sign in once more.", "bearerproxy login"),
        ),
        is_upstream_reached=True,
    ),
    "key-required": Explanation(
        "This proxy is configured with an API key, because more than one person or container can reach it. "
        "The request did not carry the key, or carried another one.",
        (
            "The tool was not given the key.",
            "The key was changed since.",
        ),
        (
            Step("Ask whoever runs this proxy for the key: it is api_key of [server]."),
            Step("Give it to the tool in the header field or as the password, never in the URL's query."),
        ),
    ),
    "not-implemented": Explanation(
        "The request asks for something that bearerproxy does not do: a protocol upgrade such as WebSocket, an unusual "
        "method, or a transfer coding other than chunked.",
        (
            "The tool tries WebSocket.",
            "The tool uses a method that the HTTP standard does not define.",
        ),
        (Step("Use the service's plain HTTP interface, or reach it without the proxy for this one purpose."),),
    ),
    "sign-in-required": Explanation(
        "Nobody is signed in for this mount, or the sign-in has ended. bearerproxy renews tokens by itself, but an "
        "issuer ends every sign-in some day; then a person has to come back.",
        (
            "It is the first use on this machine.",
            "The issuer's session has ended: overnight, after days without use, or by an administrator.",
            "Somebody signed out, or the password was changed.",
        ),
        (
            Step(
                "Sign in: by the button on the status page, or in a terminal, which a running proxy takes up within "
                "two seconds.",
                "bearerproxy login",
            ),
            Step(
                "For scripts that run for days, use a sign-in that outlives the session, where the issuer allows it.",
                "bearerproxy login --offline",
            ),
        ),
    ),
    "issuer-unavailable": Explanation(
        "The last token has ended and the issuer, which gives out new ones, cannot be reached or answers nonsense. "
        "bearerproxy keeps trying and goes on by itself as soon as the issuer answers.",
        (
            "This machine is offline, or a VPN is not connected.",
            "The network asks for a sign-in page first, as in hotels and on trains.",
            "The issuer is down for maintenance.",
            "The office reaches the internet only through an outgoing proxy that is not configured.",
        ),
        (
            Step("Try again after the seconds named in Retry-After."),
            Step("See what happens on the way to the issuer.", "bearerproxy check --online"),
            Step("Behind an outgoing proxy or a private certification authority, set proxy or ca_file of [network]."),
        ),
    ),
    "identity-misconfigured": Explanation(
        "The issuer answers, and refuses the client, its secret, the scope or the grant. Trying again cannot help; "
        "bearerproxy waits until the configuration changes.",
        (
            "client_id is misspelt, or the client does not exist in this realm.",
            "client_secret is wrong, has been replaced, or its reference points to nothing.",
            "The client is not allowed to use this grant or this scope.",
        ),
        (
            Step("See the issuer's reason.", "bearerproxy status"),
            Step("Correct [identity.NAME], check it, and start again.", "bearerproxy check --online"),
        ),
    ),
    "overloaded": Explanation(
        "More requests are in flight at the same time than bearerproxy relays. This one was not sent.",
        ("A tool opens very many connections at once.", "The upstream is slow, so that requests pile up."),
        (
            Step("Try again after the seconds named in Retry-After."),
            Step("Let the tool use fewer connections at a time."),
            Step("Raise max_requests of [server] or of [upstream.NAME], if so many at once are meant."),
        ),
    ),
    "upstream-unreachable": Explanation(
        "No connection to the service could be made: its name is unknown, it refuses, or its certificate is not "
        "trusted. The request was not sent.",
        (
            "The service is down, or this machine is offline.",
            "The url of the upstream names the wrong host or port.",
            "The office's network puts a certificate of its own in between, or demands an outgoing proxy.",
        ),
        (
            Step("See which step fails: name, connection or certificate.", "bearerproxy check --online"),
            Step("Behind an outgoing proxy or a private certification authority, set proxy or ca_file of [network]."),
        ),
    ),
    "upstream-invalid": Explanation(
        "The service answered with something that is not valid HTTP, so that no part of it can be relayed safely.",
        (
            "The url of the upstream points to something that does not speak HTTP, or to an https port as http.",
            "A device in between broke the answer.",
        ),
        (
            Step("Check scheme, host and port in the url of [upstream.NAME].", "bearerproxy check --online"),
            Step("If it stays, tell the operator of the service: the log has the time and the reason."),
        ),
        is_upstream_reached=True,
    ),
    "upstream-timeout": Explanation(
        "The service took the request and did not begin to answer within first_byte_timeout.",
        ("The query is very large.", "The service is overloaded or hangs."),
        (
            Step("Ask for less: fewer periods, fewer series, a narrower key."),
            Step("Raise first_byte_timeout of [upstream.NAME], in seconds, if such queries are normal."),
        ),
        is_upstream_reached=True,
    ),
    "loop-detected": Explanation(
        "The request has already passed through this proxy: it was about to send it to itself.",
        (
            "The url of an upstream points back to bearerproxy.",
            "Two proxies are each other's upstream.",
        ),
        (Step("Let url of [upstream.NAME] name the service itself.", "bearerproxy config show"),),
    ),
    "token-echo": Explanation(
        "The service sent your access token back in its answer, and whoever may call this port would have it.",
        ("A route that shows what was sent to it, often meant for developers.",),
        (
            Step("Ask for another path; deny this one in [upstream.NAME], and it costs no call."),
            Step('If the service is meant to hand tokens out, set token_echo = "pass" in [upstream.NAME].'),
        ),
        is_upstream_reached=True,
    ),
    "internal": Explanation(
        "bearerproxy met a situation that it was not written for. This is a defect of ours.",
        ("A defect in bearerproxy.",),
        (
            Step("Try again once."),
            Step("If it stays, report it with the line that the log shows for this moment; it holds no token."),
        ),
        is_upstream_reached=True,
    ),
}
