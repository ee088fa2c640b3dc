"""`[store] kind = "redis"`: what the configuration refuses, and what it shows."""

from pathlib import Path

import pytest

from proxy.config import Configuration, load
from proxy.errors import ConfigError


def loaded(folder: Path, store: str, *, more: str = "", **environ: str) -> Configuration:
    file = folder / "proxy.toml"
    file.write_text(f'[provena]\ndomain = "mds.example.org"\nrealm = "rrap"\n{more}\n[store]\n{store}\n')
    return load(file, environ)


@pytest.mark.parametrize(
    ("store", "mistake"),
    [
        ('kind = "redis"', r"\[store\] url: is missing, which kind = \"redis\" needs"),
        ('kind = "redis"\nurl = "http://canary@redis"', r"\[store\] url: must be rediss://host:6379/0"),
        ('kind = "redis"\nurl = "redis://redis.example.org"', r"\[store\] url: redis:// .* in the clear; use rediss://"),
        ('kind = "redis"\nurl = "rediss://redis?ssl_cert_reqs=none"', r"\[store\] url: may have no parameter but db"),
        ('kind = "redis"\nurl = "env:REDIS_URL"', r"\[store\] url: the variable REDIS_URL is not set"),
        ('kind = "redis"\nurl = "unix:///run/redis.sock"\nprefix = "a b"', r"\[store\] prefix: must be of letters"),
    ],
)  # fmt: skip
def test_mistake_is_named(tmp_path: Path, store: str, mistake: str) -> None:
    with pytest.raises(ConfigError, match=mistake) as refused:
        loaded(tmp_path, store)

    assert len(refused.value.mistakes) == 1
    assert "canary" not in str(refused.value)


def test_url_of_the_environment_is_judged_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[store\] url: redis:// would send tokens in the clear"):
        loaded(tmp_path, 'kind = "redis"\nurl = "env:REDIS_URL"', REDIS_URL="redis://:canary@redis:6379")


def test_clear_redis_is_accepted_in_a_trusted_network(tmp_path: Path) -> None:
    configuration = loaded(
        tmp_path, 'kind = "redis"\nurl = "redis://redis:6379"', more="[server]\ntrusted_network = true"
    )

    assert [one for one in configuration.warnings if "redis:// would send tokens in the clear" in one]


def test_password_in_the_file_is_warned_about_and_masked(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, 'kind = "redis"\nurl = "rediss://ada:canary@redis.example.org"')

    assert [one for one in configuration.warnings if "[store] url" in one and "holds the secret itself" in one]
    assert 'url = "rediss://ada:********@redis.example.org"' in configuration.show()
    assert "canary" not in f"{configuration.show()} {configuration.warnings} {configuration}"


def test_url_without_a_password_is_no_secret(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, 'kind = "redis"\nurl = "unix:///run/redis.sock"\nprefix = "reef"')

    assert configuration.warnings == ()
    assert 'url = "unix:///run/redis.sock"\nprefix = "reef"' in configuration.show()


def test_reference_is_shown_as_such(tmp_path: Path) -> None:
    shown = loaded(tmp_path, 'kind = "redis"\nurl = "env:REDIS_URL"', REDIS_URL="rediss://:canary@redis").show()

    assert 'url = "env:REDIS_URL"' in shown
    assert "canary" not in shown
