"""Where settings come from, and which source said what: command line > environment > secrets directory > TOML.

pydantic-settings reads and merges the four; values stay as they were said (models.py gives them their types), so that
each mistake can be traced back to the file or variable that holds it.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import SkipValidation
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from proxy.config.mistakes import nearest
from proxy.config.models import TABLES, ConfigurationFile, Table
from proxy.config.values import AnyTable, Key, LiteralText, Text
from proxy.errors import Mistake

PREFIX = "BEARERPROXY_"
CONFIG_VARIABLE = "BEARERPROXY_CONFIG"
SECRETS_VARIABLE = "BEARERPROXY_SECRETS_DIR"
DEFAULT_SECRETS_DIR = Path("/run/secrets")
_KUBERNETES = re.compile(r"BEARERPROXY_(SERVICE_.*|PORT(_[0-9]+_.*)?)")
"""Service links: Kubernetes sets them in every pod beside a service of our name."""
_OURS = re.compile(rf"({'|'.join(TABLES)})__.+")
_PATHS = (
    ("server", "uds"), ("server", "spool"), ("store", "path"), ("network", "ca_file"), ("identity", "*", "ca_file"),
    ("upstream", "*", "ca_file"),
)  # fmt: skip
_OPTIONS: dict[Key, str] = {
    ("server", "host"): "--host",
    ("server", "port"): "--port",
    ("server", "uds"): "--uds",
    ("log", "level"): "--log-level",
}


class _Gathered(BaseSettings):
    """The merged tables, values untouched."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="allow", secrets_prefix="", hide_input_in_errors=True
    )

    server: Annotated[dict[str, Any], SkipValidation] = {}  # Any: whatever a person wrote
    network: Annotated[dict[str, Any], SkipValidation] = {}
    identity: Annotated[dict[str, Any], SkipValidation] = {}
    upstream: Annotated[dict[str, Any], SkipValidation] = {}
    store: Annotated[dict[str, Any], SkipValidation] = {}
    log: Annotated[dict[str, Any], SkipValidation] = {}
    datasets: Annotated[dict[str, Any], SkipValidation] = {}
    provena: Annotated[dict[str, Any], SkipValidation] = {}
    dotstat: Annotated[dict[str, Any], SkipValidation] = {}


class _Environment(EnvSettingsSource):
    """BEARERPROXY_TABLE__KEY from the mapping that we were given."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(_Gathered)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # Sorted, so that a shorter name is there before a longer one adds to it.
        return {
            name.lower(): Text(self._environ[name])
            for name in sorted(self._environ)
            if _is_setting(name, self._environ)
        }

    def decode_complex_value(self, field_name: str, field: object, value: object) -> object:
        del field_name, field
        return value  # the keys' own types decide what is JSON (values.py)


class _Secrets(NestedSecretsSettingsSource):
    """Files `identity__me__client_secret` or `identity/me/client_secret` of a folder that others use as well."""

    def __init__(self, folder: Path, mistakes: list[Mistake]) -> None:
        self.files: dict[str, Path] = {}
        self._mistakes = mistakes
        # An empty prefix: the default is that of the variables, and secrets files do not start with it.
        super().__init__(SecretsSettingsSource(_Gathered, folder), secrets_dir_missing="ok", secrets_prefix="")

    def validate_secrets_path(self, path: Path) -> None:
        """Leave other programs' secrets alone: their size is no reason to fail."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {}
        for folder in self.secrets_paths:
            try:
                files = list(self._iter_secret_files(folder))
            except (OSError, SettingsError) as error:  # the second: more files than a folder of secrets has
                self._mistakes.append(Mistake(str(folder), f"cannot be read as a folder of secrets: {error}"))
                continue
            for file in files:
                name = "__".join(file.relative_to(folder).parts).lower()
                if _OURS.fullmatch(name):
                    self.files[name] = file
                    found[name] = self._read(file)
        return found

    def _read(self, file: Path) -> LiteralText:
        try:
            return LiteralText(file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r"))
        except OSError as error:
            self._mistakes.append(Mistake(str(file), f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError:
            self._mistakes.append(Mistake(str(file), "must be UTF-8 text"))
        return LiteralText("?")

    def decode_complex_value(self, field_name: str, field: object, value: object) -> object:
        del field_name, field
        return value


class _Toml(TomlConfigSettingsSource):
    """The file, its relative paths anchored at its folder."""

    def __init__(self, file: Path | None, mistakes: list[Mistake]) -> None:
        self._mistakes = mistakes
        self.is_readable = True
        super().__init__(_Gathered, toml_file=file)

    def _read_file(self, file_path: Any) -> dict[str, Any]:  # Any: the library's union of path kinds
        try:
            # utf-8-sig: Windows editors put a byte order mark in front, which TOML does not know
            tables = tomllib.loads(file_path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            self._fail(str(file_path), f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._fail(str(file_path), "must be UTF-8 text")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            what, _, place = str(error).rpartition(" (at ")
            self._fail(f"{file_path}: {place[:-1]}" if what else str(file_path), f"is not valid TOML: {what or error}")
        else:
            _anchor(tables, Path(file_path).absolute().parent)
            return tables
        return {}

    def _fail(self, where: str, what: str) -> None:
        self.is_readable = False
        self._mistakes.append(Mistake(where, what))


@dataclass(frozen=True)
class Layer:
    """What one source said."""

    kind: str
    tables: AnyTable
    file: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """For variables and secrets files: the setting's lower-case name and the name as it was found."""

    def label(self, path: Key) -> str:
        if self.kind == "toml":
            return f"{self.file}: {toml_name(path)}"
        if self.kind == "option":
            return _OPTIONS.get(path, f"command line: {toml_name(path)}")
        name = "__".join(path)
        return self.names.get(
            name.lower(), f"{PREFIX}{name.upper()}"
        )  # a missing key, as the variable that it could be


@dataclass(frozen=True)
class Gathered:
    """All that was said: merged, and source by source."""

    tables: AnyTable
    layers: Sequence[Layer]
    """The strongest first."""
    mistakes: Sequence[Mistake]
    is_readable: bool
    """False if the file is there but says nothing that can be understood."""

    def where(self, path: Key) -> str:
        """Return the file or variable that says `path`, or where its table stands (the file, if it is there)."""
        for layer in self.layers:
            if holds(layer.tables, path):
                return layer.label(path)
        for depth in range(len(path) - 1, 0, -1):
            for layer in reversed(self.layers):
                if holds(layer.tables, path[:depth]):
                    return layer.label(path)
        return self.layers[-1].label(path) if self.layers[-1].file else PREFIX + "__".join(path).upper()

    def is_from_toml(self, path: Key) -> bool:
        """Return True if the value at `path` stands in the file, and nothing stronger replaced it."""
        return next((layer.kind == "toml" for layer in self.layers if holds(layer.tables, path)), False)


def gather(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Gathered:
    """Read all sources and merge them; mistakes of their own kind (syntax, unknown variables) are in the result."""
    mistakes: list[Mistake] = []
    toml = _Toml(file, mistakes)
    secrets = _Secrets(_secrets_dir(environ, mistakes), mistakes)
    environment = _Environment(environ)
    options = InitSettingsSource(_Gathered, init_kwargs=_nested(overrides))
    names = {name[len(PREFIX) :].lower(): name for name in environ if _is_setting(name, environ)}
    files = {name: str(path) for name, path in secrets.files.items()}
    layers = (
        Layer("option", options()),
        Layer("variable", environment(), names=names),
        Layer("secret", secrets(), names=files),
        Layer("toml", toml.toml_data, file=file),
    )
    mistakes += _unknown_variables(environ, layers[1].tables)
    merged = _merge((options, environment, secrets, toml))
    return Gathered(merged, layers, mistakes, toml.is_readable)


def toml_name(path: Key) -> str:
    """Return `[upstream.data] url` for ("upstream", "data", "url"), and `[server]` for ("server",).

    An empty key means the table, where its path alone could be a key's: `[provena.reef]` for ("provena", "reef", "").
    """
    depth = 2 if path[0] in ("identity", "upstream") or len(path) > 2 else 1
    table, keys = path[:depth], path[depth:]
    return f"[{'.'.join(table)}]" + (f" {'.'.join(keys)}" if any(keys) else "")


def _merge(sources: tuple[PydanticBaseSettingsSource, ...]) -> AnyTable:
    class Merged(_Gathered):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **__: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del settings_cls
            return sources

    merged = Merged()
    return {name: getattr(merged, name) for name in (*TABLES, *(merged.model_extra or {}))}


def _is_setting(name: str, environ: Mapping[str, str]) -> bool:
    """Return True for a variable that says a setting. An empty one does not: compose files pass `${UNSET:-}`."""
    upper = name.upper()
    return upper.startswith(PREFIX) and bool(_OURS.fullmatch(upper[len(PREFIX) :].lower())) and environ[name] != ""


def _unknown_variables(environ: Mapping[str, str], tables: AnyTable) -> Iterator[Mistake]:
    for name in sorted(environ):
        upper = name.upper()
        rest = upper[len(PREFIX) :]
        if not upper.startswith(PREFIX) or upper in (CONFIG_VARIABLE, SECRETS_VARIABLE) or _KUBERNETES.fullmatch(name):
            continue
        if not _OURS.fullmatch(rest.lower()):
            yield Mistake(name, "is no variable of bearerproxy" + nearest(rest, _spellings(), prefix=PREFIX))
        elif environ[name] and not holds(tables, tuple(rest.lower().split("__"))):
            yield Mistake(name, "contradicts another variable, whose value is no table")


def _spellings() -> Iterator[str]:
    """Yield what may stand behind the prefix."""
    yield from (name[len(PREFIX) :] for name in (CONFIG_VARIABLE, SECRETS_VARIABLE))
    for table, info in ConfigurationFile.model_fields.items():
        annotation: Any = info.annotation  # Any: a model's class, or a dict of one
        is_named = not isinstance(annotation, type)
        model: type[Table] = get_args(annotation)[1] if is_named else annotation
        yield from (f"{table}__{'NAME__' if is_named else ''}{key}".upper() for key in model.model_fields)


def _secrets_dir(environ: Mapping[str, str], mistakes: list[Mistake]) -> Path:
    chosen = environ.get(SECRETS_VARIABLE)
    if not chosen:
        return DEFAULT_SECRETS_DIR
    if not Path(chosen).is_dir():
        mistakes.append(Mistake(SECRETS_VARIABLE, f"names no folder: {chosen}"))
    return Path(chosen)


def _nested(overrides: Mapping[str, object]) -> AnyTable:
    """Turn {"server.port": 8401} into {"server": {"port": 8401}}; None is *not given*."""
    tables: AnyTable = {}
    for dotted, value in overrides.items():
        *parents, key = dotted.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        if isinstance(value, Mapping):
            table.setdefault(key, {}).update({name: one for name, one in value.items() if one is not None})
        elif value is not None:
            table[key] = value
    return tables


def _anchor(tables: AnyTable, folder: Path) -> None:
    for pattern in _PATHS:
        for table in _tables_at(tables, pattern[:-1]):
            value = table.get(pattern[-1])
            if isinstance(value, str) and value.strip() and not value.startswith("~"):
                table[pattern[-1]] = str(folder / value)


def _tables_at(tables: AnyTable, pattern: tuple[str, ...]) -> Iterator[AnyTable]:
    if not pattern:
        yield tables
        return
    for name in tables if pattern[0] == "*" else pattern[:1]:
        inner = tables.get(name)
        if isinstance(inner, dict):
            yield from _tables_at(inner, pattern[1:])


def holds(tables: object, path: Key) -> bool:
    """Return True if something stands at `path`."""
    for name in path:
        if not isinstance(tables, dict) or name not in tables:
            return False
        tables = tables[name]
    return True
