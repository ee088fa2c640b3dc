"""The configuration: TOML, environment, secrets directory and command line, merged, checked and expanded.

`load` is the one way in; `Configuration` is the one way out.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from proxy.config.configuration import Configuration, LogSettings, ServerSettings, StoreSettings, json_schema

__all__ = [
    "Configuration", "LogSettings", "ServerSettings", "StoreSettings",
    "chosen_path", "default_path", "json_schema", "load", "load_server",
]  # fmt: skip

_NOTHING: Mapping[str, object] = {}


def load(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,  # noqa: TID251 - the environment's home
    *,
    overrides: Mapping[str, object] = _NOTHING,
) -> Configuration:
    """Return the configuration that the sources say together: overrides > environment > secrets directory > file.

    `path` is `--config` and must exist; without it BEARERPROXY_CONFIG, then the platform's configuration folder are
    looked at. `overrides` are the command line's, as {"server.port": 8401}; None is *not given*. Raises ConfigError
    with all mistakes at once.
    """
    from proxy.config.loading import read  # pydantic-settings takes 0.2 s, which --help need not pay

    return read(path, environ, overrides)


def load_server(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,  # noqa: TID251 - the environment's home
) -> ServerSettings:
    """Return how the server listens, whatever else is configured, is missing or is wrong; for asking if it is alive.

    Raises ConfigError if the file cannot be read or [server] itself is wrong.
    """
    from proxy.config.loading import read_server

    return read_server(path, environ)


def default_path() -> Path:
    """Return where the configuration is looked for when nothing says otherwise; it need not exist."""
    from proxy.config import places

    return places.default_path()


def chosen_path(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,  # noqa: TID251 - the environment's home
) -> Path:
    """Return the file that `load` would read, `path` being `--config`; it need not exist."""
    from proxy.config import places

    return places.chosen_path(path, environ)
