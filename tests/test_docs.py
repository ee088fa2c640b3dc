"""README and docs say what is true: configurations load, commands parse, the demo's lines run, links lead somewhere.

How a fenced block is read, by its info string:

  toml            a whole configuration        toml fragment   a part of one, joined to what it leaves out
  sh, powershell  one command a line           console         commands behind `$ `, the rest is what they print
  sh demo, r demo, python demo                 run against a running `bearerproxy demo`
"""

import contextlib
import itertools
import json
import os
import plistlib
import re
import signal
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from proxy import __version__
from proxy.config import load
from proxy.errors import PROXY_ERRORS
from tests.clients import programs
from tests.conftest import need_program
from tests.poll import eventually

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", HOME / "CHANGELOG.md", *sorted((HOME / "docs").glob("*.md"))]
DEMO_PORT = "8400"

BASE = """
[provena]
domain = "mds.gbrrestoration.org"
realm = "rrap"

[dotstat]
issuer = "https://keycloak.example.org/auth/realms/OECD"
client_id = "stat-suite"
nsi = "https://nsi.example.org"

[identity.me]
issuer = "https://auth.example.org/auth/realms/rrap"
client_id = "client-tools"

[upstream.data]
url = "https://data-api.example.org"
identity = "me"
"""
"""What a fragment may leave out: the presets, and one of each as the docs call them."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    info: tuple[str, ...]
    """The words of the info string."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def tokens_of(page: Path) -> Any:  # Any: markdown-it's tokens
    return MarkdownIt().enable("table").parse(page.read_text("utf-8"))


def _blocks() -> list[Block]:
    return [
        Block(page, token.map[0] + 1, tuple(token.info.split()), token.content)
        for page in PAGES
        for token in tokens_of(page)
        if token.type == "fence"
    ]


BLOCKS = _blocks()


def blocks_of(*infos: str) -> list[Block]:
    """Return the blocks with one of these info strings."""
    return [block for block in BLOCKS if " ".join(block.info) in infos]


# Configurations ------------------------------------------------------------------------------------------------------


def readable(toml: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Return a configuration whose secrets can be read on this machine, and the environment that holds them.

    A secret in a file is given that file, relative to the configuration; the keyring and commands are left to others.
    """
    environ = dict.fromkeys(re.findall(r'"env:(\w+)"', toml), "a-secret-of-the-environment")
    toml = re.sub(r'"(?:keyring|command):[^"]*"', '"env:DOCS_SECRET"', toml)
    for path in re.findall(r'"file:([^"]+)"', toml):
        place = folder / Path(path).name
        place.write_text("a-secret-of-a-file")
        place.chmod(0o600)
        toml = toml.replace(f'"file:{path}"', f'"file:{place}"')
    return toml, environ | {"DOCS_SECRET": "a-secret-of-another-place"}


@pytest.mark.parametrize("block", blocks_of("toml"), ids=str)
def test_a_whole_configuration_loads(block: Block, tmp_path: Path) -> None:
    text, environ = readable(block.text, tmp_path)
    file = tmp_path / "proxy.toml"
    file.write_text(text, "utf-8")

    assert load(file, environ).upstreams, "it serves nothing"


@pytest.mark.parametrize("block", blocks_of("toml fragment"), ids=str)
def test_a_fragment_fits_into_a_configuration(block: Block, tmp_path: Path) -> None:
    text, environ = readable(block.text, tmp_path)
    file = tmp_path / "proxy.toml"
    file.write_text(BASE, "utf-8")
    settings = dict(_dotted(tomllib.loads(text)))

    assert settings, "it says nothing"
    load(file, environ, overrides=settings)


def _dotted(table: Mapping[str, object], *above: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict) and len(above) < 2:
            yield from _dotted(value, *above, key)
        else:
            yield ".".join((*above, key)), value


# Command lines -------------------------------------------------------------------------------------------------------

_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_OPERATORS = re.compile(r"\s*(?:&&|\|\||[|;&{}])\s*")
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_IN_FRONT = (
    re.compile(r"(?:\w+=\S*\s+)+"),  # assignments
    re.compile(r"(?:until|while|if|do|then|else|!|exec|sudo)\s+"),
    re.compile(r"(?:docker|podman)[ -]compose\s+(?:exec|run)\s+(?:-\S+\s+)*\S+\s+"),
    re.compile(r"ExecStart=(?:\S*/)?(?=bearerproxy)"),
)


def commands_in(text: str) -> Iterator[str]:
    """Yield each command line of ours in a script, without what stands around it."""
    for line in text.replace("\\\n", " ").replace("`\n", " ").splitlines():
        line = re.sub(r"(?:^|\s)#.*$", "", line)  # noqa: PLW2901 - a comment
        inner = _SUBSTITUTION.findall(line)
        for part in [*_OPERATORS.split(_SUBSTITUTION.sub("_", line)), *inner]:
            yield from _ours(part.strip())


def _ours(command: str) -> Iterator[str]:
    shorter = command
    for prefix in _IN_FRONT:
        shorter = prefix.sub("", shorter, count=1) if prefix.match(shorter) else shorter
    if shorter != command:
        yield from _ours(shorter)
    elif re.match(r"bearerproxy\s+\S", command):
        yield command


def said_commands() -> list[tuple[str, str]]:
    """Return (place, command line) of every command of ours that a page tells people to type."""
    found = []
    for block in BLOCKS:
        match block.info[:1]:
            case ("sh",) | ("powershell",) | ("ini",):
                text = block.text
            case ("console",):
                text = "\n".join(line[2:] for line in block.text.splitlines() if line.startswith("$ "))
            case _:
                continue
        found += [(str(block), command) for command in commands_in(text)]
    for page in PAGES:
        for token in tokens_of(page):
            spans = [child.content for child in token.children or () if child.type == "code_inline"]
            found += [(page.name, command) for span in spans for command in commands_in(span)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("place", "command"), said_commands())
def test_a_command_line_exists(place: str, command: str) -> None:
    """The command and its options exist; values are checked as the real command line checks them."""
    import typer
    import typer.main

    from proxy.cli import app

    _, *arguments = [word.replace('"', "").replace("'", "") for word in _WORD.findall(command)]
    parser: Any = typer.main.get_command(app)  # Any: typer carries its own click, which it does not export
    if arguments == ["--install-completion"]:  # parsing it does it, in the home of whoever runs the tests
        assert any(arguments[0] in one.opts for one in parser.params)
        return
    with contextlib.suppress(typer.Exit):  # --help and --version end there
        context = parser.make_context("bearerproxy", list(arguments))
        while getattr(parser, "commands", None):
            name, *arguments = arguments
            assert name in parser.commands, f"{place}: there is no command {name!r}"
            parser = parser.commands[name]
            context = parser.make_context(name, list(arguments), parent=context)


# The demo ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunningDemo:
    """`bearerproxy demo`, running."""

    port: int
    said: str
    """What it printed before it served."""

    def of(self, text: str) -> str:
        """Return a text of the docs with this demo's port."""
        return text.replace(DEMO_PORT, str(self.port))

    def ready(self, script: str) -> str:
        """Return a shell script in which `bearerproxy` is the command, with this demo's configuration and sign-in."""
        [config, *_] = re.findall(r"--config (\S+)", self.said)
        command = f'bearerproxy() {{ "{sys.executable}" -m proxy "$@"; }}'
        return f"export BEARERPROXY_CONFIG='{config}' PYTHONPATH='{HOME}'\n{command}\n{self.of(script)}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "demo", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=HOME,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},  # noqa: TID251 - the tests' own environment
            text=True,
        )
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    try:
        yield _started(process, log)
    finally:
        too_late.cancel()
        process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
        process.communicate(timeout=30)


def _started(process: subprocess.Popen[str], log: Path) -> RunningDemo:
    """Return the demo once it has printed its last line, which it does when it serves."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"Status page: http://localhost:(\d+)/", line):
            return RunningDemo(int(found[1]), said)
    raise AssertionError(f"the demo ended or did not serve within a minute\n{said}{log.read_text()}")


def _status(url: str) -> int | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


async def ran_well(ran: programs.Ran) -> None:
    assert ran.exit_status == 0, ran.complaint or ran.text
    assert ran.output.strip(), "it printed nothing"


@pytest.mark.client
@pytest.mark.parametrize("block", blocks_of("sh demo"), ids=str)
async def test_a_shell_line_runs_against_the_demo(block: Block, demo: RunningDemo) -> None:
    for name, package in (("curl", "curl"), ("wget", "wget"), ("gdalinfo", "gdal-bin")):
        if re.search(rf"^{name}\b", block.text, re.MULTILINE):
            need_program(name, how=f"apt-get install {package}")

    await ran_well(await programs.run("sh", "-euc", demo.ready(block.text)))


@pytest.mark.client
@pytest.mark.parametrize("block", blocks_of("r demo"), ids=str)
async def test_an_r_script_runs_against_the_demo(block: Block, demo: RunningDemo) -> None:
    await ran_well(await programs.r("options(warn = 2);" + demo.of(block.text)))


@pytest.mark.client
@pytest.mark.parametrize("block", blocks_of("python demo"), ids=str)
async def test_a_python_script_runs_against_the_demo(block: Block, demo: RunningDemo) -> None:
    await ran_well(await programs.python(demo.of(block.text)))


@pytest.mark.client
@pytest.mark.parametrize("language", ["sh demo", "r demo", "python demo"])
def test_there_is_something_to_run_in(language: str) -> None:
    """A misspelt info string would let the tests above pass with nothing run."""
    assert blocks_of(language)


@pytest.mark.client
async def test_the_readme_shows_what_the_demo_prints(demo: RunningDemo) -> None:
    """Every line, but for the folder that differs each time."""
    [shown] = [block.text for block in blocks_of("console") if "./scripts/demo\n" in block.text]
    lines = [line.strip() for line in shown.splitlines()[1:] if line.strip() not in ("", "…")]
    printed = demo.said.replace(str(demo.port), DEMO_PORT)

    assert lines
    assert [line for line in lines if line not in printed] == []


@pytest.mark.client
async def test_the_readme_table_is_the_demo(demo: RunningDemo) -> None:
    """The addresses in the README's table of tools are there, for whoever tries them."""
    readme = (HOME / "README.md").read_text("utf-8")
    table = readme[readme.index("## Use") : readme.index("## How it works")]
    urls = set(re.findall(r"http://localhost:8400/[^\"`]+", table))

    assert len(urls) >= 4
    assert {url: _status(demo.of(url)) for url in urls} == dict.fromkeys(urls, 200)


@pytest.mark.client
async def test_answers_shown_in_operations_are_true(demo: RunningDemo) -> None:
    """The JSON that operations.md shows for a ready proxy is the real one's, but for the times in it."""
    [shown] = [block.text for block in blocks_of("console") if "/-/ready\n" in block.text]
    url = f"http://localhost:{demo.port}/-/ready"
    await eventually(lambda: _status(url) == 200, what="a ready demo")

    def timeless(text: str) -> Any:  # Any: JSON
        return json.loads(re.sub(r'"\d{4}-\d\d-\d\dT[\d:]+Z"', '"a time"', text))

    assert timeless(shown.partition("\n")[2]) == timeless((await programs.curl(url)).text)


# The rest ------------------------------------------------------------------------------------------------------------


def slug(title: str) -> str:
    """Return the anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    tokens = tokens_of(page)
    return {slug(after.content) for token, after in itertools.pairwise(tokens) if token.type == "heading_open"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = []
    for token in tokens_of(page):
        for child in token.children or ():
            link = child.attrs.get("href") if child.type == "link_open" else None
            if not isinstance(link, str) or re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and anchor not in anchors_of(there)):
                broken.append(link)

    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (HOME / "docs" / "README.md").read_text("utf-8")

    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == [
        "README.md"
    ]


def failures_told() -> dict[str, str]:
    """Return the table of failures in operations.md: status by type."""
    text = (HOME / "docs" / "operations.md").read_text("utf-8")
    return dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", text, re.MULTILINE))


@pytest.mark.parametrize("kind", [error.kind for error in PROXY_ERRORS])
def test_every_failure_is_in_operations(kind: str) -> None:
    [error] = [one for one in PROXY_ERRORS if one.kind == kind]

    assert kind in failures_told()
    assert str(error.status) in failures_told()[kind]


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", (HOME / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == __version__


def test_the_launchd_recipe_is_a_property_list() -> None:
    [block] = blocks_of("xml")

    assert plistlib.loads(block.text.encode())["ProgramArguments"][1:] == ["serve"]


@pytest.mark.parametrize("block", blocks_of("python", "python demo"), ids=str)
def test_a_python_script_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", dont_inherit=True)


def test_no_placeholder_was_left() -> None:
    assert [page.name for page in PAGES if re.search(r"@[A-Z]{3,}@|TODO|FIXME", page.read_text("utf-8"))] == []
