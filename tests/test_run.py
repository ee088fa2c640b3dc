"""`run`: a command with every base URL in its environment, the proxy there for as long as it takes, and no longer."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from proxy.cli.local import LocalAnswer
from proxy.cli.running import environment, pages_to_sign_in
from proxy.config import load
from proxy.demo import Demo
from proxy.secret_refs import Secret
from tests.command import Ended, bearerproxy, ended, serving, started
from tests.conftest import need_program
from tests.poll import eventually
from tests.terminal import terminal

POSIX_ALONE = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX; Windows' console tells both")
LOCAL = re.compile(r"http://localhost:(\d+)/")
ROWS = "/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL"


@dataclass
class Place:
    """A configuration for the demo's .Stat Suite, which wants no person."""

    demo: Demo
    config: Path
    """Takes any free port."""

    def at(self, port: int) -> "Place":
        """Return the same on a port that is known."""
        config = self.config.with_name("at.toml")
        config.write_text(self.config.read_text().replace("port = 0", f"port = {port}"))
        return replace(self, config=config)

    async def run(self, *command: str, options: tuple[str, ...] = ()) -> Ended:
        return await bearerproxy("run", "--config", self.config, *options, "--", *command)


async def is_gone(said: str) -> bool:
    """Return whether nobody answers any more at the first local URL of `said`."""
    found = LOCAL.search(said)
    assert found is not None, said
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(found[1]))
    except OSError:
        return True
    writer.close()
    await writer.wait_closed()
    return False


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with Demo() as demo:
        config = tmp_path / "proxy.toml"
        tables = demo.configuration(port=0, store=tmp_path / "store")
        del tables["provena"], tables["datasets"]
        monkeypatch.setenv("SECRET_OF_OURS", tables["dotstat"]["client_secret"])
        tables["dotstat"]["client_secret"] = "env:SECRET_OF_OURS"
        config.write_text(written(tables))
        yield Place(demo, config)


def written(tables: dict[str, dict[str, object]]) -> str:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


# The environment -----------------------------------------------------------------------------------------------------


def test_the_command_finds_base_urls_and_no_web_proxy_before_them(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[upstream.my_data]\nurl = "https://data.example.org"\nanonymous = true\n')
    configuration = load(file, {})
    made = environment(configuration, configuration.server, {"PATH": "/bin", "no_proxy": "intranet"})

    assert made == {
        "PATH": "/bin",
        "MY_DATA_URL": "http://localhost:8400/my_data",
        "no_proxy": "intranet,localhost,127.0.0.1",
        "NO_PROXY": "intranet,localhost,127.0.0.1",
        "BEARERPROXY_CONFIG": str(file),
    }


def test_a_key_that_callers_must_present_stands_in_the_urls(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('[upstream.data]\nurl = "https://data.example.org"\nanonymous = true\n')
    configuration = load(file, {}, overrides={"server.api_key": Secret.parse("k/y", literal=True).reveal()})

    assert environment(configuration, configuration.server, {})["DATA_URL"] == "http://any:k%2Fy@localhost:8400/data"


async def test_the_command_sees_no_secret_of_ours(place: Place) -> None:
    """(S16)"""
    ran = await place.run(sys.executable, "-c", "import os; print(sorted(os.environ))")

    assert "DOTSTAT_CSV_URL" in ran.output, ran.words
    assert "SECRET_OF_OURS" not in ran.output


# What it runs --------------------------------------------------------------------------------------------------------


async def test_curl_reads_data_through_a_proxy_that_is_there_for_it_alone(place: Place) -> None:
    need_program("curl", how="apt-get install curl")
    ran = await place.run("sh", "-c", f'url="$DOTSTAT_CSV_URL{ROWS}"; echo "$url"; curl -sS --fail "$url"')

    assert ran.exit_status == 0, ran.words
    assert "DATAFLOW," in ran.output
    assert "AU,HOL,2016" in ran.output
    assert await is_gone(ran.output)


async def test_r_reads_data_by_the_variable(place: Place) -> None:
    need_program("Rscript", how="apt-get install r-base-core")
    script = f'cat(nrow(read.csv(paste0(Sys.getenv("DOTSTAT_CSV_URL"), "{ROWS}"))) > 0)'
    ran = await place.run("Rscript", "--vanilla", "-e", script)

    assert (ran.exit_status, ran.output) == (0, "TRUE"), ran.words


async def test_a_proxy_that_serves_already_is_used_and_goes_on(place: Place) -> None:
    async with serving(place.config) as proxy:
        ran = await place.at(proxy.port).run(sys.executable, "-c", "import os; print(os.environ['DOTSTAT_REST_URL'])")

        assert ran.output.strip() == f"{proxy.url}/dotstat/rest", ran.words
        assert (await proxy.get("/-/live")).status_code == 200


async def test_a_proxy_of_another_configuration_is_not_used(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    async with serving(place.config) as proxy:
        table = '[upstream.mine]\nurl = "http://127.0.0.1:1"\nanonymous = true\n'
        other.write_text(f"server.port = {proxy.port}\n{table}")
        ran = await bearerproxy("run", "--config", other, "--", "never-mind" if os.name == "nt" else "true")

    assert ran.exit_status == 1
    assert "serves another configuration: it has no mine." in ran.words


@pytest.mark.parametrize("options", [("--",), ()], ids=["behind-dashes", "bare"])
async def test_the_commands_own_options_and_exit_status_are_its_own(place: Place, options: tuple[str, ...]) -> None:
    script = "import sys; print(sys.argv[1:]); sys.exit(7)"
    ran = await bearerproxy(
        "run", "--config", place.config, *options, sys.executable, "-c", script, "--timeout", "--help"
    )

    assert (ran.exit_status, ran.output.strip()) == (7, "['--timeout', '--help']"), ran.words


async def test_standard_input_is_the_commands(place: Place) -> None:
    script = "import sys; print(sys.stdin.read().upper())"
    ran = await bearerproxy(
        "run", "--config", place.config, "--", sys.executable, "-c", script, text="typed by a person"
    )

    assert ran.output.strip() == "TYPED BY A PERSON", ran.words


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("no-such-command", 127, "error: There is no command 'no-such-command'."),
        (__file__, 126, "is no program that you may run."),
    ],
    ids=["missing", "not-executable"],
)
@POSIX_ALONE
async def test_a_command_that_cannot_be_started_is_said_before_anybody_waits(
    place: Place, command: str, status: int, said: str
) -> None:
    ran = await place.run(command)

    assert ran.exit_status == status
    assert said in ran.words
    assert len(ran.complaint.strip().splitlines()) == 1


# Signals -------------------------------------------------------------------------------------------------------------

PATIENT = """
import os, signal, sys, time
def told(number, _):
    print("told", signal.Signals(number).name, flush=True)
    sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, told)
print("here", os.environ["DOTSTAT_CSV_URL"], flush=True)
while True:
    time.sleep(60)
"""

LISTENING = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Goes before a command that shall hear Ctrl-C also where the tests themselves were started with it ignored."""


@asynccontextmanager
async def patient(place: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command that waits for signals, and yield once it does."""
    process = await started("run", "--config", place.config, "--", sys.executable, "-c", PATIENT, before=LISTENING)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).startswith(b"here ")
        yield process
    finally:
        await ended(process)


@POSIX_ALONE
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
async def test_a_signal_that_is_sent_to_us_reaches_the_command(place: Place, name: str) -> None:
    async with patient(place) as process, asyncio.timeout(60):
        process.send_signal(signal.Signals[name])
        output, complaint = await process.communicate()

    assert output == f"told {name}\n".encode()
    assert process.returncode == 5, complaint


@POSIX_ALONE
async def test_a_command_that_a_signal_ended_is_told_as_shells_do(place: Place) -> None:
    ran = await place.run("sh", "-c", 'echo "$DOTSTAT_CSV_URL"; kill -KILL $$')

    assert ran.exit_status == 137  # 128 + 9
    assert await is_gone(ran.output)


@POSIX_ALONE
async def test_ctrl_c_reaches_the_command_once_and_leaves_nothing(place: Place) -> None:
    ours: list[str | Path] = [sys.executable, "-m", "proxy", "run", "--config", place.config]
    command = [*LISTENING, *ours, "--", sys.executable, "-c", PATIENT]
    async with terminal(command) as there:
        await there.reads("here")
        there.interrupt()

        assert await there.end() == 5
        await eventually(lambda: "told SIGINT" in there.screen, what="the command's word")
        assert there.screen.count("told SIGINT") == 1
        assert "Traceback" not in there.screen
        assert await is_gone(there.screen)


# Until it is ready ---------------------------------------------------------------------------------------------------


async def test_what_is_waited_for_is_said_and_its_end_is_3_where_a_person_is_needed(place: Place) -> None:
    text = place.config.read_text()
    signed_out = {"provena": place.demo.configuration()["provena"]}
    place.config.write_text(f"{text}\n{written(signed_out)}\n")
    ran = await place.run(sys.executable, "-c", "print('ran')", options=("--timeout", "1"))

    assert ran.exit_status == 3, ran.words
    assert re.search(r"Sign in as provena: http://localhost:\d+/-/login/provena ", ran.words)
    assert "waiting: provena: Not signed in as 'provena'" in ran.words
    assert "error: Not ready within 1 s" in ran.words
    assert "ran" not in ran.output
    assert await is_gone(ran.complaint)


async def test_only_the_identity_that_is_named_is_waited_for(place: Place) -> None:
    text = place.config.read_text()
    signed_out = {"provena": place.demo.configuration()["provena"]}
    place.config.write_text(f"{text}\n{written(signed_out)}\n")
    ran = await place.run(sys.executable, "-c", "print('ran')", options=("--identity", "dotstat"))

    assert (ran.exit_status, ran.output.strip()) == (0, "ran"), ran.words


async def test_an_issuer_that_is_away_ends_the_wait_with_1(place: Place) -> None:
    await place.demo.stop("issuer")
    ran = await place.run(sys.executable, "-c", "print('ran')", options=("--timeout", "1"))

    assert ran.exit_status == 1, ran.words
    assert "waiting: dotstat:" in ran.words
    assert "ran" not in ran.output


@pytest.mark.parametrize(
    ("answer", "pages"),
    [
        (None, []),
        (LocalAnswer(200, b"{}"), []),
        (LocalAnswer(503, b"no JSON"), []),
        (LocalAnswer(503, b"[]"), []),
        (LocalAnswer(503, b'{"reasons": [{"identity": "a", "state": "misconfigured", "page": "/p"}]}'), []),
        (
            LocalAnswer(503, b'{"reasons": [{"identity": "a", "state": "sign-in-required", "page": "/-/login/a"}]}'),
            [("a", "/-/login/a")],
        ),
    ],
    ids=["nothing", "ready", "text", "list", "misconfigured", "signed-out"],
)
def test_where_somebody_has_to_sign_in_is_read_from_readiness(
    answer: LocalAnswer | None, pages: list[tuple[str, str]]
) -> None:
    assert list(pages_to_sign_in(answer)) == pages
