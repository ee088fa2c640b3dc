"""A real redis-server of the tests' own, on a unix socket in a temporary folder, which can be stopped and started."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import need_program

PROGRAMS = ("redis-server", "valkey-server")


@dataclass
class RedisServer:
    """One server; what it holds survives `stop` and `kill`, because it writes each change to its log at once."""

    program: str
    folder: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = f"--port 0 --appendonly yes --appendfsync always --dir {self.folder} --unixsocket {self.socket}"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *settings.split(), "--save", "", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            is_hopeful = self.process.poll() is None and time.monotonic() < deadline
            assert is_hopeful, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as a service manager does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def kill(self) -> None:
        """End it without a warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        self.process = None

    def _answers(self) -> bool:
        from redis import Redis, exceptions

        try:
            with Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except exceptions.AuthenticationError:
            return True
        except exceptions.RedisError:
            return False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redis", metavar="PROGRAM", help="test shared stores on this server, such as valkey-server")


@pytest.fixture(scope="session")
def redis_program(pytestconfig: pytest.Config) -> str:
    chosen = pytestconfig.getoption("--redis") or next(filter(shutil.which, PROGRAMS), PROGRAMS[0])
    return need_program(chosen, how="apt-get install redis-server, or valkey-server")


@pytest.fixture(scope="session")
def shared_redis(redis_program: str) -> Iterator[RedisServer]:
    """One server for tests that only want a place: each takes a prefix of its own."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))  # pytest's own folders can be too deep for a socket's path
    server = RedisServer(redis_program, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def redis_server(redis_program: str) -> Iterator[RedisServer]:
    """A server that the test may stop, start and kill."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(redis_program, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)
