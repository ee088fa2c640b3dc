"""The image, built once for all tests here, and projects of containers that run it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, need, need_program
from tests.container import engine as containers
from tests.container.engine import HERE, IMAGE, Engine, Project

ROOT = HERE.parent.parent
APT = "apt-get install --no-install-recommends buildah podman runc netavark aardvark-dns iptables"
PLANTED = "canary-secret-that-no-layer-may-hold"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """buildah and podman on a storage of their own, removed at the end."""
    for name in ("buildah", "podman", "runc", "iptables"):
        need_program(name, how=APT)
    for network in ("netavark", "aardvark-dns"):
        if not (Path("/usr/lib/podman") / network).exists():
            need(f"the program {network}", how=APT)
    if sys.platform == "win32" or os.geteuid() != 0:
        need("the right to make containers", how="run these tests as root")
    need_program("dpkg", how="run these tests on Debian, from whose packages the base image is made")
    if not any(Path("/usr/share/python-wheels").glob("pip-*.whl")):
        need("the package python3-venv", how="apt-get install python3-venv")
    with containers.opened() as opened:
        yield opened


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The image of this tree, built where secrets lie about in the folder and in the environment."""
    containers.make_base(engine)
    context = engine.folder / "context"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".*", "tests", "bench", "__pycache__"))
    shutil.copy(ROOT / ".dockerignore", context)
    for place in (".env", "proxy/.env", "secrets/provena__refresh_token", "config/proxy.toml", "proxy.toml"):
        (context / place).parent.mkdir(exist_ok=True)
        (context / place).write_text(f"PROVENA_API_TOKEN={PLANTED}\n")
    engine.build(context, tag=IMAGE, file=context / "Dockerfile", environ={"PROVENA_API_TOKEN": PLANTED})
    return IMAGE


@pytest.fixture
def project(engine: Engine, image: str, tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Return a maker of projects: the compose file alone in a folder, with variables as a person's .env has them."""
    made: list[Project] = []

    def make(*overlays: Path, **variables: str) -> Project:
        ports = {name: str(free_port()) for name in ("PROXY_PORT", "DEMO_PORT", "OFFICE_PORT")}
        folder = tmp_path / f"project{len(made)}"
        folder.mkdir()
        file = Path(shutil.copy(ROOT / "docker-compose.yml", folder))
        program = {"OFFICE_PROGRAM": str(HERE / "office.py")}
        one = Project(
            engine, folder, ports | program | variables, (file, *overlays), f"{engine.folder.name}-{len(made)}"
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.run("--profile", "demo", "down", "--volumes", "--timeout", "5")
    engine.clear()
