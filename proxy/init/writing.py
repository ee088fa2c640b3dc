"""The file: what was answered, and beside it the settings that people look for next, switched off. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping

from proxy.config.values import AnyTable
from proxy.identities import Grant
from proxy.init.answers import Answers, Service

_HEAD = """\
# bearerproxy: {what}.
#
# A line that starts with # and a space explains; one that starts with # alone is a setting that is switched off.
# Every setting: `bearerproxy config schema`. What this file comes to: `bearerproxy config show`.
"""
_GRANTS = {
    Grant.DEVICE_CODE: "You sign in with a browser, and confirm a code there.",
    Grant.AUTHORIZATION_CODE: "You sign in with the browser of this machine.",
    Grant.CLIENT_CREDENTIALS: "The client signs in by itself: no person is asked.",
}


def written(answers: Answers) -> str:
    """Return the whole file."""
    parts = [
        _HEAD.format(what=_what(answers)),
        *_SERVICES[answers.service](answers),
        _network(answers),
        _server(answers),
    ]
    return "\n".join(part for part in parts if part)


def _what(answers: Answers) -> str:
    where = next(iter(answers.address.values()))
    called = {Service.PROVENA: "Provena", Service.DOTSTAT: ".Stat Suite", Service.OTHER: "an API"}[answers.service]
    return f"{called} at {where}"


def _provena(answers: Answers) -> Iterator[str]:
    said = answers.preset()
    lines = ["# The deployment: who signs you in, and all of its services.", "[provena]", *_lines(said)]
    if "client_id" not in said:
        lines.append(f"#client_id = {_quoted(answers.default_client or '')}")
    lines += [
        "# true asks for a sign-in that lasts for weeks, as `bearerproxy login provena --offline` does once.",
        "#offline = true",
    ]
    yield _block(lines)
    yield from _apart(answers)


def _dotstat(answers: Answers) -> Iterator[str]:
    said = answers.preset()
    nsi = said.pop("nsi")
    yield _block(
        [
            "# Who signs you in. " + _GRANTS[answers.grant],
            "[dotstat]",
            *_lines(said),
            "# Where the data are; the other services have addresses with a version in them.",
            *_lines({"nsi": nsi}),
            '#transfer = "https://transfer.example.org/2"',
            '#authorization = "https://authorization.example.org/1.1"',
        ]
    )
    yield from _apart(answers)


def _other(answers: Answers) -> Iterator[str]:
    said = answers.preset()
    url = said.pop("url")
    yield _block(
        [
            "# Who signs you in. " + _GRANTS[answers.grant],
            f"[identity.{answers.name}]",
            *_lines({**said, **answers.of_issuer}),
            "# Scopes to ask for, separated by spaces.",
            '#scope = "openid"',
        ]
    )
    yield _block(
        [
            f"# The API. Your tools find it at http://localhost:{answers.port}{answers.mount}/",
            f"[upstream.{answers.name}]",
            *_lines({"url": url, "identity": answers.name, **answers.of_service}),
            f"#mount = {_quoted(answers.mount)}",
            "# Relays what reads, and nothing else.",
            "#read_only = true",
            "# A path that asks for a token, by which `bearerproxy doctor` tries your sign-in.",
            '#probe = "/items?limit=1"',
        ]
    )


_SERVICES = {Service.PROVENA: _provena, Service.DOTSTAT: _dotstat, Service.OTHER: _other}


def _apart(answers: Answers) -> Iterator[str]:
    """Yield how single hosts of a preset are reached, where it is not the same for all."""
    if answers.of_issuer:
        yield _block(["# How its issuer is reached.", f"[identity.{answers.name}]", *_lines(answers.of_issuer)])
    if answers.of_service:
        for name in answers.expanded().upstreams:
            yield _block(["# How this service is reached.", f"[upstream.{name}]", *_lines(answers.of_service)])


def _network(answers: Answers) -> str:
    lines = [
        "# How the outside is reached.",
        *(f"# {note[0].upper()}{note[1:]}" for note in answers.notes),
        "[network]",
    ]
    if "proxy" in answers.network:
        lines += _lines({"proxy": answers.network["proxy"]})
    else:
        lines += ['# A company\'s web proxy: its address, or "env" for what https_proxy says.', '#proxy = "env"']
    if "ca_file" in answers.network:
        lines += _lines({"ca_file": answers.network["ca_file"]})
    else:
        lines += ["# Certification authorities to trust instead of the system's.", '#ca_file = "office-ca.pem"']
    return _block(lines)


def _server(answers: Answers) -> str:
    return _block(
        [
            "# Where your tools find it, on this machine alone.",
            "[server]",
            "port = " + str(answers.port) if answers.port != 8400 else "#port = 8400",
            '# A request that needs a sign-in waits while your browser opens the page for it; "refuse" answers 503.',
            '#on_sign_in = "wait"',
        ]
    )


def _lines(table: AnyTable | Mapping[str, str]) -> list[str]:
    return [f"{key} = {_quoted(value)}" for key, value in table.items()]


def _quoted(value: object) -> str:
    """Return a TOML string, whose basic form is JSON's."""
    return json.dumps(str(value), ensure_ascii=False)


def _block(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
