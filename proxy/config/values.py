"""What a single setting may hold: the pydantic types of the tables' fields.

Settings from the environment and from secrets files are text, those of TOML are typed already. `Text` marks the first
kind, so that `methods = "GET"` is a mistake in TOML and `…__METHODS=GET,HEAD` a list.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator, ValidationInfo, WithJsonSchema

from proxy.config.addresses import parse_host, parse_listen, parse_proxy_url, parse_url
from proxy.errors import SecretError
from proxy.secret_refs import Secret
from proxy.spool import TOTAL_LIMIT
from proxy.upstreams import RELAYED_METHODS

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""Names of identities, upstreams and presets: they can stand in a variable, where `__` separates."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_SIZE = re.compile(r"([0-9]{1,18}) ?(B|kB|MB|GB|KiB|MiB|GiB)?")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MOUNT = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Text(str):
    """A value from the environment, or of a secrets file: text that stands for whatever its key holds."""

    __slots__ = ()


class LiteralText(Text):
    """A value of a secrets file: where its key holds a secret, this is it, never a reference."""

    __slots__ = ()


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic turns ValueError into a mistake, TypeError not
    return value.strip() if isinstance(value, Text) else value


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, Text) else value


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must not be empty" if not text.strip() else "must not hold control characters")
    return text


def _list(value: object) -> object:
    if not isinstance(value, Text):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _json(value: object) -> object:
    if not isinstance(value, Text):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be JSON") from None


def _seconds(value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be a positive number of seconds")
    return value


def _count(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1")
    return value


def _bytes(value: object) -> int:
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        value = int(found[1]) * _UNITS[found[2] or "B"]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError('must be a number of bytes, such as 1048576 or "256MiB"')
    if value > TOTAL_LIMIT:
        raise ValueError("must be at most 1GiB, which is what the bodies of all requests together may take")
    return value


def _port(value: int) -> int:
    if not 0 <= value <= 65535:
        raise ValueError("must be a port from 0 to 65535")
    return value


def _listen(value: int | str) -> int | str:
    parse_listen(value, "")
    return value


def _url(text: str) -> str:
    parse_url(text)
    return text.rstrip("/")


def _exact_url(text: str) -> str:
    parse_url(text)
    return text


def _proxy(text: str) -> str:
    return text if text in ("none", "env") else parse_proxy_url(text)


def _file(value: object) -> object:
    if not isinstance(value, str):
        return value
    _text(value)
    try:
        # A relative path of TOML is anchored at the file's folder before it gets here (sources.py).
        return Path(value.strip()).expanduser().absolute()
    except RuntimeError:
        raise ValueError("must be a path; the home folder for '~' is not known") from None


def _key_prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", text):
        raise ValueError("must be of letters, digits and . _ : -")
    return text


def _method(text: str) -> str:
    if text.upper() not in RELAYED_METHODS:
        raise ValueError(f"must be among {', '.join(RELAYED_METHODS)}")
    return text.upper()


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be a path that starts with '/', relative to the mount")
    return text


def _mount(text: str) -> str:
    mount = text.rstrip("/") or "/"
    if mount != "/" and (not _MOUNT.fullmatch(mount) or re.search(r"/\.{1,2}(/|$)", mount)):
        raise ValueError("must be a path such as /provena/data, of letters, digits and . _ ~ -")
    return mount


def _preset_mount(mount: str) -> str:
    if mount == "/":
        raise ValueError("must be a path below /, such as /provena")
    return mount


def _allowed_host(text: str) -> str:
    name, colon, port = text.rpartition(":") if re.search(r":(\*|[0-9]+)$", text) else (text, "", "")
    if text.startswith("[") and text.endswith("]"):
        name, colon, port = text, "", ""
    if "*" in name or "/" in name:
        raise ValueError('entries must be "name", "name:port" or "name:*", without a scheme')
    if port not in ("", "*") and not 0 < int(port) <= 65535:
        raise ValueError("has an entry whose port is not from 1 to 65535")
    host = parse_host(name)
    return (f"[{host}]" if ":" in host else host) + colon + port


def _origin(text: str) -> str:
    try:
        url = parse_url(text)
    except ValueError:
        url = None
    if url is None or url.path or text.endswith("/"):
        raise ValueError("entries must be exact origins such as https://app.example.org, without a path")
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + ("" if url.port == {"http": 80, "https": 443}[url.scheme] else f":{url.port}")


def _secret(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic turns ValueError into a mistake, TypeError not
    environ: Mapping[str, str] | None = (info.context or {}).get("environ")
    try:
        return Secret.parse(str(value), literal=isinstance(value, LiteralText), environ=environ)
    except SecretError as error:
        raise ValueError(str(error)) from None


def _field_names(headers: object) -> object:
    """Let `…__HEADERS__X_API_KEY` name the field X-API-KEY: no variable has a hyphen, no field an underscore."""
    if not isinstance(headers, dict):
        return headers
    return {
        (str(name).replace("_", "-") if isinstance(value, Text) else name): value for name, value in headers.items()
    }


def _field_name(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a field name")
    if name.lower() in UNSETTABLE_FIELDS:
        raise ValueError("is set by the proxy itself and cannot be configured")
    return name


def _parameter(name: str) -> str:
    if name in OWN_PARAMETERS:
        raise ValueError("has a key of its own or is set by the grant")
    return name


UNSETTABLE_FIELDS = frozenset({
    "host", "connection", "content-length", "transfer-encoding", "trailer", "upgrade", "via", "keep-alive",
    "expect", "proxy-authorization", "proxy-connection", "http2-settings", "content-encoding", "content-type", "range",
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "te",  # codespell:ignore te
})  # fmt: skip
OWN_PARAMETERS = frozenset({
    "grant_type", "client_id", "client_secret", "scope", "username", "password", "refresh_token", "code",
    "code_verifier", "code_challenge", "code_challenge_method", "device_code", "redirect_uri", "state",
    "response_type", "client_assertion", "client_assertion_type",
})  # fmt: skip

Flag = Annotated[bool, BeforeValidator(_stripped)]
Line = Annotated[str, BeforeValidator(_stripped), AfterValidator(_text)]
Seconds = Annotated[float, BeforeValidator(_number), AfterValidator(_seconds)]
Count = Annotated[int, BeforeValidator(_number), AfterValidator(_count)]
Bytes = Annotated[int, PlainValidator(_bytes), WithJsonSchema({"type": ["integer", "string"]})]
Port = Annotated[int, BeforeValidator(_number), AfterValidator(_port)]
Listen = Annotated[int | str, BeforeValidator(_number), AfterValidator(_listen)]
Host = Annotated[str, BeforeValidator(_stripped), AfterValidator(parse_host)]
BaseUrl = Annotated[str, BeforeValidator(_stripped), AfterValidator(_url)]
ExactUrl = Annotated[str, BeforeValidator(_stripped), AfterValidator(_exact_url)]
"""Kept to the letter: an issuer is compared without any normalisation (RFC 8414 3.3), and some end in a slash."""
OutboundProxy = Annotated[str, BeforeValidator(_stripped), AfterValidator(_proxy)]
Mount = Annotated[str, BeforeValidator(_stripped), AfterValidator(_mount)]
PresetMount = Annotated[Mount, AfterValidator(_preset_mount)]
Methods = Annotated[list[Annotated[str, AfterValidator(_method)]], BeforeValidator(_list)]
RequestPath = Annotated[str, BeforeValidator(_stripped), AfterValidator(_path)]
Paths = Annotated[list[Annotated[str, AfterValidator(_path)]], BeforeValidator(_list)]
AllowedHosts = Annotated[list[Annotated[str, AfterValidator(_allowed_host)]], BeforeValidator(_list)]
AllowedOrigins = Annotated[list[Annotated[str, AfterValidator(_origin)]], BeforeValidator(_list)]
SecretValue = Annotated[Secret, PlainValidator(_secret), WithJsonSchema({"type": "string"})]
Headers = Annotated[
    dict[Annotated[str, AfterValidator(_field_name)], SecretValue],
    BeforeValidator(_field_names),
    BeforeValidator(_json),
]
Parameters = Annotated[
    dict[Annotated[str, AfterValidator(_parameter)], str | list[str]],
    BeforeValidator(_json),
]
FilePath = Annotated[Path, BeforeValidator(_file)]
KeyPrefix = Annotated[str, BeforeValidator(_stripped), AfterValidator(_key_prefix)]

AnyTable = dict[str, Any]
"""A table before it is validated: what TOML, the environment and the secrets directory said."""
Key = tuple[str, ...]
"""A setting or a table by its path: ("upstream", "data", "url")."""
Finding = tuple[Key, str]
"""What is wrong, or worth a warning, with the setting at a path; `where` makes a sentence of the path."""
