"""Each program reads a plain service and says nothing of its own about who it is; journeys use them with the proxy."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.clients import programs

pytestmark = pytest.mark.client

CSV = "site,count\nHeron Island,3\nLizard Island,5\n"


class Service(BaseHTTPRequestHandler):
    """Answers /data.csv, and 401 to a request that brings its own credentials."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status = 401 if "Authorization" in self.headers else 200 if self.path == "/data.csv" else 404
        body = CSV.encode() if status == 200 else b"no\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/csv")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_curl_prints_the_body(service: str) -> None:
    assert await programs.curl(f"{service}/data.csv") == programs.Ran(0, CSV.encode(), "")


async def test_curl_fails_when_told_to(service: str) -> None:
    ran = await programs.curl(f"{service}/nothing", "--fail")

    assert (ran.exit_status, ran.output) == (22, b"")
    assert "404" in ran.complaint


async def test_wget_prints_the_body(service: str) -> None:
    assert await programs.wget(f"{service}/data.csv") == programs.Ran(0, CSV.encode(), "")


async def test_r_reads_a_table(service: str) -> None:
    ran = await programs.r_read_csv(f"{service}/data.csv")

    assert (ran.exit_status, ran.text) == (0, CSV), ran.complaint


async def test_r_complains_about_a_missing_table(service: str) -> None:
    ran = await programs.r_read_csv(f"{service}/nothing")

    assert ran.exit_status == 1
    assert "404" in ran.complaint


async def test_r_downloads_a_file(service: str, tmp_path: Path) -> None:
    ran = await programs.r_download_file(f"{service}/data.csv", tmp_path / "data.csv")

    assert ran.exit_status == 0, ran.complaint
    assert (tmp_path / "data.csv").read_text() == CSV


async def test_pandas_reads_a_table(service: str) -> None:
    ran = await programs.pandas_read_csv(f"{service}/data.csv")

    assert (ran.exit_status, ran.text) == (0, CSV), ran.complaint


async def test_requests_gets_the_body(service: str) -> None:
    assert await programs.requests_get(f"{service}/data.csv") == programs.Ran(0, CSV.encode(), "")


async def test_a_program_that_hangs_is_killed() -> None:
    with pytest.raises(TimeoutError):
        await programs.run("sleep", "60", deadline_seconds=0.2)
