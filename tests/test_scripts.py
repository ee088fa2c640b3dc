"""The scripts and locks by which this checkout is installed, tested and shown."""

import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import need_program

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = PROJECT["project"]["dependencies"]
TEST = RUNTIME + PROJECT["dependency-groups"]["test"]
CHECK = TEST + PROJECT["dependency-groups"]["check"]
LOCKS = {
    "requirements.lock": RUNTIME,
    "requirements-test.lock": TEST,
    "requirements-check.lock": CHECK,
    "build.lock": PROJECT["build-system"]["requires"],
}

REGISTRIES = "|".join(
    re.escape(name)
    for name in (
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "repo.maven" + ".apache.org",
        "repo1.maven" + ".org",
        "registry.npmjs" + ".org",
        "deb.debian" + ".org",
    )
)
HERE_ALONE = "|".join(("/work" + "/", r"\.\./sha" + "red", r"/roo" + r"t/\.pyenv"))


def pins(lock: str) -> set[tuple[str, str]]:
    """Return (canonical name, version) of each pin of a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {
        (canonicalize_name(name), version) for name, version in re.findall(r"^([^\s=]+)==(\S+)", text, re.MULTILINE)
    }


def tracked_texts() -> list[tuple[str, str]]:
    git = need_program("git", how="apt-get install git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [(str(path), path.read_text(encoding="utf-8", errors="replace")) for path in paths if path.is_file()]


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda path: path.name)
def test_a_script_is_short_executable_sh(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()

    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# ")
    assert len(lines) <= 40
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize(("lock", "wanted"), LOCKS.items(), ids=LOCKS)
def test_a_lock_is_in_step_with_pyproject(lock: str, wanted: list[str]) -> None:
    """`scripts/lock` brings it there."""
    locked = pins(lock)

    for requirement in map(Requirement, wanted):
        versions = [version for name, version in locked if name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name} is not in {lock}"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_what_is_tested_is_what_is_installed() -> None:
    for smaller, larger in pairwise(("requirements.lock", "requirements-test.lock", "requirements-check.lock")):
        assert pins(smaller) <= pins(larger)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_each_pin(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pinned = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]

    assert pinned
    assert all(re.match(r"\S+==\S+( ;.*)? \\\n    --hash=sha256:[0-9a-f]{64}", pin) for pin in pinned)


def test_no_file_names_a_registry() -> None:
    """Where packages come from is the user's choice: mirrors and closed networks are common in offices."""
    assert [name for name, text in tracked_texts() if re.search(REGISTRIES, text)] == []


def test_no_file_leans_on_the_machine_it_was_written_on() -> None:
    assert [name for name, text in tracked_texts() if re.search(HERE_ALONE, text)] == []
