"""`urls --for` and `url`: what a person copies, and what a script captures."""

import io
import json
import subprocess
from pathlib import Path

import pytest

from tests.test_cli import Ran

SDMX = """
[server]
port = 8455

[identity.me]
issuer = "https://auth.example.org/realms/x"
client_id = "client-tools"

[upstream.rest]
url = "https://nsi.example.org/rest"
identity = "me"

[upstream.csv]
url = "https://nsi.example.org/rest"
identity = "me"
accept = "application/vnd.sdmx.data+csv"
read_only = true
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "proxy.toml"
    file.write_text(SDMX)
    return file


@pytest.mark.parametrize(
    ("tool", "lines"),
    [
        ("r", ['data <- read.csv("http://localhost:8455/csv/data/FLOW/all")', "library(rsdmx)", "library(httr2)"]),
        ("python", ["import pandas", "import sdmx", "import requests"]),
        ("excel", ["// Choose Anonymous when Excel asks how to sign in.", "=WEBSERVICE("]),
        ("curl", ["# https://nsi.example.org/rest, curl", "curl -g 'http://localhost:8455/rest/data/FLOW/all'"]),
        ("powershell", ["Invoke-RestMethod -Uri 'http://localhost:8455/csv/data/FLOW/all'"]),
        ("compose", ["services:", "      REST_URL: http://proxy:8455/rest"]),
        ("renviron", ["REST_URL=http://localhost:8455/rest", "no_proxy=localhost,127.0.0.1"]),
    ],
)
def test_urls_for_a_tool_are_lines_to_copy(
    config: Path, tool: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "urls", "--for", tool, "--config", config)
    assert (ran.status, ran.complaint) == (0, "")
    assert [line for line in lines if line not in ran.output] == []


def test_lines_for_a_shell_are_a_script(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What names the lines is a comment, so that the output as a whole can be pasted."""
    script = Ran(capsys, "urls", "--for", "curl", "--config", config).output
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_an_unknown_tool_is_refused_with_those_there_are(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "urls", "--for", "spss", "--config", config)
    assert ran.status == 2
    assert "renviron" in ran.complaint


def test_url_prints_the_local_url_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for scripts: `read.csv(system("bearerproxy url …", intern = TRUE))`."""
    ran = Ran(capsys, "url", "https://nsi.example.org/rest/data/FLOW/A..B?startPeriod=2018", "--config", config)
    assert (ran.status, ran.output) == (0, "http://localhost:8455/rest/data/FLOW/A..B?startPeriod=2018\n")
    assert "[upstream.rest] stands for https://nsi.example.org/rest" in ran.complaint
    assert "Also: http://localhost:8455/csv/data/FLOW/A..B?startPeriod=2018" in ran.complaint


def test_an_address_that_no_mount_leads_to_is_status_1_with_the_reason(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "url", "https://elsewhere.example.org/x", "--config", config)
    assert (ran.status, ran.output) == (1, "")
    assert "No mount leads to elsewhere.example.org. Mounted hosts: nsi.example.org." in ran.complaint


def test_a_pasted_text_comes_by_standard_input(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("curl -H 'Accept: text/csv' 'https://nsi.example.org/rest/x'\n"))
    ran = Ran(capsys, "url", "-", "--config", config)
    assert (ran.status, ran.output) == (0, "http://localhost:8455/rest/x\n")


def test_renviron_has_a_variable_for_each_upstream_of_a_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[provena]\ndomain = "example.org"\nrealm = "x"\n')
    shown = json.loads(Ran(capsys, "config", "schema").output)
    lines = Ran(capsys, "urls", "--for", "renviron", "--config", file).output.splitlines()
    assert shown["properties"]["provena"]
    assert "PROVENA_DATA_URL=http://localhost:8400/provena/data" in lines
    assert len(lines) == 8
