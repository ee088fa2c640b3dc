"""The floor that all tests stand on (tests/conftest.py)."""

import asyncio
import os
from pathlib import Path

import pytest

from tests import conftest

pytest_plugins = ["pytester"]


def test_a_missing_part_skips_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "IS_CI", False)

    with pytest.raises(pytest.skip.Exception, match="the moon is missing; to get it: wait for the night"):
        conftest.need("the moon", how="wait for the night")


def test_a_missing_part_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "IS_CI", True)

    with pytest.raises(pytest.fail.Exception, match="the program no-such-program is missing; to get it: nowhere"):
        conftest.need_program("no-such-program", how="nowhere")


def test_nobodys_own_settings_are_seen(strange_machine: Path) -> None:
    names = [*os.environ]  # noqa: TID251 - what is tested

    assert [name for name in names if name.startswith("BEARERPROXY_") or name.lower().endswith("_proxy")] == []
    assert os.environ["XDG_STATE_HOME"].startswith(str(strange_machine))  # noqa: TID251 - what is tested


async def test_no_leaks_passes_a_test_that_cleans_up(no_leaks: None) -> None:
    os.close(os.open(".", os.O_RDONLY))

    assert await asyncio.to_thread(lambda: True)


def test_no_leaks_fails_a_test_that_leaves_a_descriptor(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makeconftest("from tests.conftest import no_leaks")
    pytester.makepyfile("import os\nasync def test_leak(no_leaks): os.open('.', os.O_RDONLY)")

    pytester.runpytest_inprocess().assert_outcomes(passed=1, errors=1)


def test_files_stay_whole_when_they_are_spread_over_processes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import pytest_xdist_make_scheduler")
    pytester.makepyfile(**dict.fromkeys(("test_one", "test_two", "test_three"), "def test_1(): 0\n\ndef test_2(): 0"))

    ran = pytester.runpytest_subprocess("-n", "2", "-v", "-p", "no:asyncio")

    places = {(line.split()[-1].partition("::")[0], line[:5]) for line in ran.outlines if line.startswith("[gw")}
    assert ran.parseoutcomes() == {"passed": 6}
    assert [name for name, _ in sorted(places)] == ["test_one.py", "test_three.py", "test_two.py"]


def test_what_shares_an_issuer_runs_in_one_process() -> None:
    assert conftest.scope_of("tests/keycloak/test_journeys.py::test_x[1]") == "tests/keycloak/"
    assert conftest.scope_of("tests/keycloak/test_token_life.py::test_y") == "tests/keycloak/"
    assert conftest.scope_of("tests/test_a.py::test_b[keycloak::x]") == "tests/test_a.py"
