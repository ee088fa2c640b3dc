"""Which file is read. Never one of the working folder.

A cloned repository must not be able to name somebody's identity and send its token elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path

import platformdirs

from proxy.config.sources import CONFIG_VARIABLE
from proxy.errors import ConfigError, Mistake

SUGGESTION = "run `bearerproxy init`, or `bearerproxy demo` to look around"
"""What somebody without a configuration may do."""


def default_path() -> Path:
    """Return where the configuration is looked for when nothing says otherwise; it need not exist."""
    return platformdirs.user_config_path("bearerproxy", appauthor=False) / "proxy.toml"


def chosen_path(path: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the file that `--config`, BEARERPROXY_CONFIG or the platform names; it need not exist."""
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else default_path())
    return named.expanduser() if str(named).startswith("~") else named


def chosen_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read, or None if there is none to be found; raises ConfigError if a named one is not there."""
    named = environ.get(CONFIG_VARIABLE)
    if path is None and named:
        path, source = Path(named), CONFIG_VARIABLE
    else:
        source = "--config"
    if path is None:
        return default_path() if default_path().is_file() else None
    path = path.expanduser() if str(path).startswith("~") else path
    if not path.is_file():
        what = "is a folder; name the file in it" if path.is_dir() else "there is no such file"
        raise ConfigError(Mistake(f"{source} {path}", f"{what}; {SUGGESTION}" if not path.is_dir() else what))
    return path
