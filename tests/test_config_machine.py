"""What settings come to where nobody says it: `same_user` and `redirect_uri`, in containers and outside (S13)."""

import sys
from pathlib import Path

import pytest

from proxy.config import load
from proxy.config.machine import is_container
from proxy.errors import ConfigError

BARE = '[upstream.open]\nurl = "https://data.example.org"\nanonymous = true\n'
REMOTE = 'host = "0.0.0.0"\nallow_remote = true\nallowed_hosts = ["proxy"]\ntrusted_network = true\n'


@pytest.mark.parametrize(
    ("marks", "environ", "found"),
    [
        ([], {}, False),
        ([".dockerenv"], {}, True),
        (["run/.containerenv"], {}, True),
        (["run/host/container-manager"], {}, True),
        ([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ([".singularity.d/"], {}, False),
        ([".singularity.d/", ".dockerenv"], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_s13_a_container_is_known_by_its_marks(
    tmp_path: Path, marks: list[str], environ: dict[str, str], found: bool
) -> None:
    """Apptainer's share the users of the login node, so they do not count."""
    for mark in marks:
        place = tmp_path / mark
        place.parent.mkdir(parents=True, exist_ok=True)
        if mark.endswith("/"):
            place.mkdir()
        else:
            place.touch()

    assert is_container(environ, tmp_path) is found


@pytest.mark.parametrize(
    ("server", "in_container", "comes_to"),
    [
        ("", False, True),
        ("", True, False),
        (REMOTE, False, False),
        ("same_user = false", False, False),
        ("same_user = true", True, True),
        (REMOTE + "same_user = true", False, True),
    ],
)
def test_s13_what_same_user_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, in_container: bool, comes_to: bool
) -> None:
    if sys.platform != "linux":
        pytest.skip("same_user needs Linux")
    monkeypatch.setattr("proxy.config.building.is_container", lambda _: in_container)  # where the tests run is as it is
    (tmp_path / "proxy.toml").write_text(f"[server]\n{server}\n{BARE}")

    configuration = load(tmp_path / "proxy.toml", {})

    assert configuration.server.same_user is comes_to
    assert f"same_user = {str(comes_to).lower()}" in configuration.show()


def test_s13_elsewhere_the_setting_is_a_mistake_and_off_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.config.checks.sys.platform", "darwin")
    (tmp_path / "proxy.toml").write_text(BARE)
    assert load(tmp_path / "proxy.toml", {}).server.same_user is False

    (tmp_path / "proxy.toml").write_text(f"[server]\nsame_user = true\n{BARE}")
    with pytest.raises(ConfigError, match=r"needs Linux.*api_key"):
        load(tmp_path / "proxy.toml", {})


@pytest.mark.parametrize(
    ("said", "in_container", "comes_to"),
    [
        ("", False, None),
        ("[server]\nport = 0", True, None),
        ("", True, "http://127.0.0.1:8400/-/callback"),
        ('redirect_uri = "http://localhost:9000/-/callback"', True, "http://localhost:9000/-/callback"),
        ('redirect_uri = "http://localhost:9000/-/callback"', False, "http://localhost:9000/-/callback"),
    ],
)
def test_a_browser_comes_back_to_a_container_at_its_own_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, in_container: bool, comes_to: str | None
) -> None:
    monkeypatch.setattr("proxy.config.building.is_container", lambda _: in_container)
    (tmp_path / "proxy.toml").write_text(f"""{BARE}
        [identity.me]
        issuer = "https://auth.example.org"
        client_id = "desktop"
        grant = "authorization_code"
        {said}
    """)

    assert load(tmp_path / "proxy.toml", {}).identities["me"].redirect_uri == comes_to


@pytest.mark.parametrize("uri", ["http://127.0.0.1:8400/", "http://127.0.0.1:8400/callback"])
def test_a_redirect_uri_is_our_page(tmp_path: Path, uri: str) -> None:
    me = '[identity.me]\nissuer = "https://auth.example.org"\nclient_id = "x"\ngrant = "authorization_code"'
    (tmp_path / "proxy.toml").write_text(f'{BARE}{me}\nredirect_uri = "{uri}"\n')

    with pytest.raises(ConfigError, match="/-/callback"):
        load(tmp_path / "proxy.toml", {})


def test_a_redirect_uri_without_its_grant_is_a_warning(tmp_path: Path) -> None:
    me = '[identity.me]\nissuer = "https://auth.example.org"\nclient_id = "x"'
    (tmp_path / "proxy.toml").write_text(f'{BARE}{me}\nredirect_uri = "http://127.0.0.1:8400/-/callback"\n')

    assert '"authorization_code"?' in " ".join(load(tmp_path / "proxy.toml", {}).warnings)
