"""axe-core, which knows what makes a page hard to use for people who do not see it, or do not see it well."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need, need_program

VERSION = "4.14.1"
FOLDER = Path(__file__).parents[2] / ".tmp" / "axe"


@pytest.fixture(scope="session")
def axe() -> str:
    """Return axe-core's source, by npm the first time."""
    script = FOLDER / VERSION / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = need_program("npm", how="apt-get install npm")
        shutil.rmtree(FOLDER / VERSION, ignore_errors=True)
        (FOLDER / VERSION).mkdir(parents=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", f"axe-core@{VERSION}"]
        made = subprocess.run(
            [*command, "--prefix", str(FOLDER / VERSION)], capture_output=True, text=True, timeout=120, check=False
        )
        if made.returncode != 0:
            need(f"axe-core {VERSION}", how=f"npm install axe-core; npm says: {made.stderr[-300:]}")
    return script.read_text("utf-8")
