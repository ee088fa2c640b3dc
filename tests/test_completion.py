"""What the shell offers when somebody presses Tab behind `bearerproxy`: commands, choices and their own identities."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.terminal import terminal

TABLES = '[identity.{name}]\nissuer = "https://auth.example.org"\nclient_id = "c"\ngrant = "device_code"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "proxy.toml"
    file.write_text("".join(TABLES.format(name=name) for name in ("reef_data", "reef_maps", "census")))
    return file


async def offered(line: str, config: Path) -> list[str]:
    """Return what bash would offer for the last word of `line`."""
    words = line.split(" ")
    said = {
        "_BEARERPROXY_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "BEARERPROXY_CONFIG": str(config),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        env={**os.environ, **said},  # noqa: TID251 - the tests' own environment
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    assert complaint == b""
    return output.decode().split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bearerproxy do", ["doctor"]),
        ("bearerproxy login ", ["reef_data", "reef_maps", "census"]),
        ("bearerproxy token reef_", ["reef_data", "reef_maps"]),
        ("bearerproxy wait c", ["census"]),
        ("bearerproxy run --identity reef_m", ["reef_maps"]),
        ("bearerproxy urls --for r", ["r", "renviron"]),
    ],
)
async def test_what_is_offered(line: str, expected: list[str], config: Path) -> None:
    assert await offered(line, config) == expected


async def test_a_configuration_named_on_the_line_is_the_one_that_is_read(config: Path, tmp_path: Path) -> None:
    assert await offered(f"bearerproxy login --config {config} c", tmp_path / "none.toml") == ["census"]


async def test_a_wrong_configuration_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text("identity = 7")

    assert await offered("bearerproxy login ", tmp_path / "proxy.toml") == []


@pytest.mark.skipif(os.name == "nt", reason="bash on a terminal of POSIX")
async def test_tab_in_a_real_bash_completes_command_and_identity(config: Path) -> None:
    bash = need_program("bash", how="apt-get install bash")
    environ = {
        "BEARERPROXY_CONFIG": str(config),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # noqa: TID251 - the tests' own environment
        "PS1": "at your service> ",
    }
    async with terminal([bash, "--norc", "--noprofile", "-i"], environ=environ) as there:
        await there.types('source <(bearerproxy --show-completion bash) && echo "rea""dy"', after="at your service>")
        await there.reads("ready")
        os.write(there.keyboard, b"bearerproxy logi\tcen\t")

        await there.reads("bearerproxy login census")
        os.write(there.keyboard, b"\x15exit\n")  # Ctrl-U: the line is not run
        await there.end()
