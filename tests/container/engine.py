"""buildah, podman and podman-compose with a storage of their own: no daemon, and nothing left on the machine."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from tests.poll import eventually

HERE = Path(__file__).parent
IMAGE = "localhost/bearerproxy"
BASE = "localhost/python:3.11-slim"

_STORAGE = '[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/{driver}/g"\nrunroot = "{folder}/{driver}/r"\n'
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/libpod"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    output: str
    errors: str

    def __bool__(self) -> bool:
        return self.status == 0


@dataclass(frozen=True)
class Engine:
    """The three commands on one storage, which lies in `folder`."""

    folder: Path
    environ: Mapping[str, str] = field(repr=False)
    driver: str

    def run(self, *argv: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        """Run a command to its end; a status other than 0 is told, not raised. It has two minutes."""
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=cwd or self.folder,
            env={**self.environ, **(environ or {})},
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def podman(self, *argv: str) -> str:
        """Run podman and return what it printed. Raises AssertionError with its complaint if it failed."""
        return _good(self.run("podman", *argv), "podman", *argv)

    def build(self, context: Path, *, tag: str, file: Path, environ: Mapping[str, str] | None = None) -> None:
        """Build an image. `--layers` needs a driver that shares files between layers: vfs would copy each whole."""
        layers = ["--layers"] if self.driver == "overlay" else []
        argv = [
            "bud",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--pull-never",
            *layers,
            "-t",
            tag,
            "-f",
            str(file),
        ]
        _good(self.run("buildah", *argv, str(context), environ=environ), "buildah", *argv)

    def is_healthy(self, container: str) -> bool:
        """Run the container's HEALTHCHECK once."""
        return bool(self.run("podman", "healthcheck", "run", container))

    async def healthy(self, container: str) -> None:
        """Wait for the health that `service_healthy` waits for, which podman 4 does not know.

        Raises AssertionError with the container's log if it ends, or is not healthy within half a minute.
        """

        def is_decided() -> bool:
            state = self.podman("inspect", "--format", "{{.State.Running}} {{.RestartCount}}", container).split()
            return self.is_healthy(container) or state != ["true", "0"]

        with contextlib.suppress(TimeoutError):
            await eventually(is_decided, 30, every=0.3)
        assert self.is_healthy(container), f"{container} is not healthy:\n{self.log(container)}"

    def log(self, container: str) -> str:
        """Return what the container wrote."""
        done = self.run("podman", "logs", container)
        return "\n".join(line for line in (done.output + done.errors).splitlines() if "systemd" not in line)

    def clear(self) -> None:
        """Remove every container and volume, so that what a failed test left behind is not in the next one's way."""
        self.podman("rm", "--all", "--force", "--volumes", "--time", "0")
        self.podman("volume", "rm", "--all", "--force")
        self.podman("network", "prune", "--force")


@dataclass(frozen=True)
class Project:
    """The compose file in a folder of its own, and the variables that a person would write into .env."""

    engine: Engine
    folder: Path
    environ: Mapping[str, str]
    files: tuple[Path, ...]
    name: str

    def run(self, *argv: str) -> Done:
        """Run podman-compose to its end."""
        files = (word for file in self.files for word in ("-f", str(file)))
        program = [sys.executable, "-m", "podman_compose", "-p", self.name, *files]
        return self.engine.run(*program, *argv, environ=self.environ, cwd=self.folder)

    def __call__(self, *argv: str) -> str:
        """Run podman-compose and return what it printed. Raises AssertionError with its complaint if it failed."""
        return _good(self.run(*argv), "podman-compose", *argv)

    def container(self, service: str) -> str:
        return f"{self.name}_{service}_1"


def _good(done: Done, *argv: str) -> str:
    assert done, f"{' '.join(argv)} ended with {done.status}:\n{done.output[-4000:]}\n{done.errors[-4000:]}"
    return done.output


@contextlib.contextmanager
def opened() -> Iterator[Engine]:
    """Yield an engine with an empty storage, and remove all of it at the end.

    One at a time on a machine: whatever their storage, podmans share addresses and the name server.
    """
    with FileLock(Path(tempfile.gettempdir()) / "bearerproxy-containers.lock", timeout=600):
        # Not pytest's folder: podman's sockets lie in it, whose paths may have 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="bearerproxy-"))
        engine = _with_driver(folder)
        try:
            yield engine
        finally:
            engine.clear()
            engine.run("buildah", "rm", "--all")
            for driver in ("overlay", "vfs"):
                engine.run("umount", str(folder / driver / "g" / driver))
            shutil.rmtree(folder)


def _with_driver(folder: Path) -> Engine:
    """Return the engine with the first storage driver that works here: overlay is quick, vfs works everywhere."""
    storage, containers = folder / "storage.conf", folder / "containers.conf"
    containers.write_text(_CONTAINERS.format(folder=folder))
    inherited = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}  # noqa: TID251
    environ = inherited | {"CONTAINERS_STORAGE_CONF": str(storage), "CONTAINERS_CONF": str(containers)}
    for driver in ("overlay", "vfs"):
        storage.write_text(_STORAGE.format(driver=driver, folder=folder))
        engine = Engine(folder, environ, driver)
        started = engine.run("buildah", "from", "scratch")
        name = started.output.strip()
        if started and engine.run("buildah", "mount", name):
            engine.run("buildah", "rm", name)
            return engine
    shutil.rmtree(folder)
    raise AssertionError(f"no storage driver works here: {started.errors}")


def make_base(engine: Engine) -> None:
    """Build the stand-in for the public base image from this machine's own packages."""
    folder = engine.folder / "base"
    folder.mkdir()
    _good(engine.run("sh", str(HERE / "fastroot.sh"), str(folder / "rootfs.tar")), "fastroot.sh")
    engine.build(folder, tag=BASE, file=HERE / "base.Dockerfile")
    (folder / "rootfs.tar").unlink()
