"""This machine: its proxy variables, who else may call, the port, the token store. Pure, but for two looks."""

import os
from collections.abc import Mapping
from pathlib import Path

from proxy.config import ServerSettings
from proxy.doctor.finding import Finding
from proxy.server import ListenError, bind

LOCAL = ("localhost", "127.0.0.1")
_TO_LOCAL = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
"""What sends http:// through a web proxy: libcurl reads the small one alone, Python and Go both."""


def proxy_variables(environ: Mapping[str, str]) -> Finding:
    """Judge whether local tools would ask a company's web proxy for our own URLs (R and curl do, without no_proxy)."""
    check, about = "proxy-variables", "environment"
    named = [name for name in _TO_LOCAL if environ.get(name)]
    if not named:
        return Finding.ok(check, about, "No variable sends local requests through a web proxy.")
    missing = _not_excepted(_excepted(environ))
    if not missing:
        return Finding.ok(check, about, f"{named[0]} is set, and no_proxy leaves this machine out.")
    return Finding.wrong(
        check,
        about,
        f"{named[0]} is set and no_proxy does not name {' and '.join(missing)}: R, curl and Python would ask the web "
        "proxy for the local URLs.",
        f"Set no_proxy={without_web_proxy(environ)} where your tools start, for R in .Renviron.",
    )


def without_web_proxy(environ: Mapping[str, str]) -> str:
    """Return the value of no_proxy that `environ` has, with this machine added."""
    entries = _excepted(environ)
    return ",".join([*entries, *_not_excepted(entries)])


def _excepted(environ: Mapping[str, str]) -> list[str]:
    said = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return [entry.strip() for entry in said.split(",") if entry.strip()]


def _not_excepted(entries: list[str]) -> list[str]:
    known = {entry.lower().lstrip(".") for entry in entries}
    return [host for host in LOCAL if host not in known and "*" not in known]


def open_to_users(server: ServerSettings, platform: str, *, is_container: bool) -> Finding:
    """Judge whether programs of other users of this machine may use the sign-ins."""
    check, about = "other-users", "[server]"
    if server.same_user:
        return Finding.ok(check, about, "Only programs of your own user are let in.")
    if server.api_key is not None:
        return Finding.ok(check, about, "Callers must present the key.")
    if is_container:
        return Finding.ok(check, about, "This is a container; its network decides who may call.")
    text = "Programs of every user of this machine may use your sign-ins."
    if platform == "linux":
        return Finding.wrong(check, about, text, "Remove same_user = false from [server], or set api_key.")
    return Finding.note(check, about, text, "If others work on this machine, set api_key in [server].")


def own_port(host: str, port: int, *, allow_remote: bool, is_running: bool) -> Finding:
    """Look whether the proxy could listen, or does already; whoever holds the port is named."""
    check, about = "port", f"{host}:{port}"
    if is_running:
        return Finding.ok(check, about, "bearerproxy answers there.")
    try:
        listeners = bind(host, port, allow_remote=allow_remote)
    except ListenError as error:
        text, _, cure = str(error).partition(". ")
        return Finding.wrong(check, about, f"{text}.", cure or "Choose another address in [server].")
    for listener in listeners:
        listener.close()
    return Finding.ok(check, about, "Free; bearerproxy is not running.")


def token_store(kind: str, folder: Path, trouble: str | None) -> Finding:
    """Judge the token store; `trouble` is the sentence with which reading it failed. Looks at the folder's rights."""
    check, about = "store", str(folder) if kind in ("file", "keyring") else kind
    if trouble is not None:
        text, separator, cure = trouble.partition("; ")
        cure = cure[:1].upper() + cure[1:] if separator else "Repair it, or choose another [store]."
        return Finding.wrong(check, about, f"{text.rstrip('.')}.", cure)
    if kind == "memory":
        return Finding.note(check, about, "Sign-ins are kept in memory and end with the proxy.")
    if kind == "redis":
        return Finding.ok(check, about, "The server answers.")
    nearest = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding.wrong(
            check,
            about,
            f"The folder {nearest} is not writable, so renewed tokens would be lost.",
            "Make it yours, or set [store] path.",
        )
    return Finding.ok(check, about, f"Kept by {kind}, readable by you alone.")
