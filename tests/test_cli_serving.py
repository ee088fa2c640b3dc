"""`serve` as a person and as a program sees it."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.cli.log_lines import line, style_of
from proxy.events import Event, Listening, Misconfigured, Refused, Relayed, SignedIn, SignInAwaited, Warned
from tests.command import serving
from tests.test_cli import written

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def relayed(status: int) -> Relayed:
    return Relayed("data", "GET", "/data/x", status, 0, 10, 0.1)


@pytest.mark.parametrize(
    ("event", "style"),
    [
        (relayed(200), ""),
        (relayed(404), "yellow"),
        (relayed(502), "red"),
        (Refused("no-upstream", 404, "GET", "/x", "No mount."), "yellow"),
        (SignedIn("me", "ada", is_offline=False), "green"),
        (SignInAwaited("me", "http://localhost:8400/-/login/me", 50), "bold"),
        (Warned("look"), "yellow"),
        (Misconfigured("me", "no"), "red"),
        (Listening(("http://x",)), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_colour_is_for_what_somebody_should_look_at(event: Event, style: str) -> None:
    assert style_of(event) == style


def test_no_value_can_act_on_the_terminal() -> None:
    """A target may hold what would move the cursor, or look like markup."""
    shown = line(NOON, Refused("bad-request", 400, "GET", "/\x1b[2J[red]", "no"))

    assert shown.plain == "12:00:00  GET /\\x1b[2J[red]  400 bad-request: no"


async def test_log_format_json_is_one_object_a_line(tmp_path: Path) -> None:
    config = written(tmp_path)
    async with serving(config, "--log-format", "json") as proxy:
        await proxy.get("/nothing")
    assert {event["event"] for event in proxy.events} == {"listening", "refused"}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals of this kind")
async def test_on_a_terminal_serve_says_once_how_things_are_and_then_one_line_an_event(tmp_path: Path) -> None:
    from tests.poll import eventually
    from tests.terminal import terminal

    config = written(tmp_path)
    async with terminal([sys.executable, "-m", "proxy", "serve", "--config", config, "--port", "0"]) as there:
        shown = await there.reads("Stop with Ctrl-C")
        url = next(word for word in shown.split() if word.startswith("http://localhost:") and word.endswith("/data/"))
        import httpx2

        async with httpx2.AsyncClient(trust_env=False) as http:
            assert (await http.get(url.replace("/data/", "/nothing?a=[red]"))).status_code == 404
        await there.reads("404 no-upstream")
        there.interrupt()
        assert await there.end() == 0

    assert "https://data.example.org" in shown
    assert "me: sign-in needed" in shown
    assert there.screen.count("Status page: http://localhost:") == 1
    assert "\x1b[33mGET /nothing" in there.raw.decode()
    assert "GET /nothing?a=[red]  404 no-upstream" in there.screen
    await eventually(lambda: there.process.returncode == 0)
