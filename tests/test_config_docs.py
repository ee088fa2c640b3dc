"""The example files and the manual say what the models say."""

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from proxy.config import Configuration, load
from proxy.config.models import ConfigurationFile, Table
from proxy.errors import ConfigError

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config/proxy.example.toml"
MANUAL = ROOT / "docs/configuration.md"
SECRETS = (
    "PROXY_API_KEY PROVENA_API_TOKEN DOTSTAT_CLIENT_SECRET DOTSTAT_REFRESH_TOKEN DOTSTAT_PASSWORD MY_CLIENT_SECRET "
    "MY_REFRESH_TOKEN MY_PASSWORD SUBSCRIPTION_KEY TOKEN_STORE_KEY PUBLIC_BASIC"
)
MODELS: dict[str, tuple[type[Table], bool]] = {}
for _name, _info in ConfigurationFile.model_fields.items():
    _annotation: Any = _info.annotation  # Any: a model's class, or a dict of one
    MODELS[_name] = (_annotation, False) if isinstance(_annotation, type) else (get_args(_annotation)[1], True)


def uncommented() -> str:
    """Return the example with every setting in force: its lines start with # and no space."""
    return re.sub(r"^#(?=\S)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def loaded(path: Path, **environ: str) -> Configuration:
    return load(path, environ)


@pytest.mark.parametrize("table", MODELS)
def test_the_example_has_every_setting_of(table: str) -> None:
    model, is_named = MODELS[table]
    said = tomllib.loads(uncommented())[table]
    keys = {key for one in said.values() for key in one} if is_named else set(said)

    assert set(model.model_fields) <= keys
    assert is_named or {key for key in keys if not isinstance(said[key], dict)} <= set(model.model_fields)


def test_the_example_loads_with_every_setting_in_force(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text(uncommented(), encoding="utf-8")
    (tmp_path / "office-ca.pem").write_text("a certificate")
    configuration = loaded(tmp_path / "proxy.toml", **dict.fromkeys(SECRETS.split(), "x"))

    assert set(configuration.identities) == {"provena", "stage", "dotstat", "design", "me"}
    assert configuration.store.path == tmp_path / "state"


def test_the_example_says_nothing_as_it_is() -> None:
    assert tomllib.loads(EXAMPLE.read_text(encoding="utf-8")) == {}


def test_defaults_in_the_example_are_the_defaults() -> None:
    """What the example shows for switches and time-outs is what one gets without it."""
    said = tomllib.loads(uncommented())
    for table, (model, is_named) in MODELS.items():
        for one in said[table].values() if is_named else [said[table]]:
            for key, info in model.model_fields.items():
                if isinstance(info.default, int | float) and key in one and key != "anonymous":
                    assert one[key] == info.default, f"[{table}] {key}"


@pytest.mark.parametrize("table", MODELS)
def test_the_manual_has_every_setting_of(table: str) -> None:
    model, _ = MODELS[table]
    rows = set(MANUAL.read_text(encoding="utf-8").splitlines())

    assert [row for key, info in model.model_fields.items() if (row := manual_row(key, info)) not in rows] == []


def manual_row(key: str, info: FieldInfo) -> str:
    """Return the line of a setting in the manual's tables."""
    default = info.default.value if isinstance(info.default, Enum) else info.default
    if info.is_required():
        shown = "required"
    elif default in (None, {}, []):
        shown = ""
    elif isinstance(default, bool):
        shown = f"`{str(default).lower()}`"
    else:
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
    return f"| `{key}` | {shown} | {info.description} |"


def test_the_provena_file_works() -> None:
    configuration = loaded(ROOT / "config/provena.toml")

    assert "provena_data" in [one.name for one in configuration.upstreams]
    assert configuration.warnings == ()


def test_the_dotstat_file_works() -> None:
    configuration = loaded(ROOT / "config/dotstat.toml", DOTSTAT_CLIENT_SECRET="x")

    assert [one.mount for one in configuration.upstreams] == ["/dotstat/rest", "/dotstat/csv", "/dotstat/transfer"]
    assert configuration.warnings == ()


def test_the_compose_file_works_with_services_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "provena__refresh_token").write_text("offline\n")
    configuration = load(
        ROOT / "config/compose.toml",
        {
            "BEARERPROXY_SECRETS_DIR": str(tmp_path),
            "BEARERPROXY_PROVENA__DOMAIN": "mds.example.org",
            "BEARERPROXY_PROVENA__REALM": "rrap",
            "BEARERPROXY_DOTSTAT__ISSUER": "",
            "BEARERPROXY_PORT": "tcp://10.0.0.1:8400",
        },
    )

    assert (configuration.server.host, configuration.store.kind) == ("0.0.0.0", "file")
    assert configuration.store.path == Path("/var/lib/bearerproxy")
    assert configuration.identities["provena"].client_id == "automated-access"
    assert [one for one in configuration.warnings if "trusted_network" in one]


def test_the_compose_file_alone_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="configures no identity and no upstream"):
        loaded(ROOT / "config/compose.toml")
