"""The relays that people write in Python: each a file of its own under bench/relays/, run in the peers' environment."""

from pathlib import Path

from bench.peers.launch import Launch, mounted
from bench.programs import first_line, program
from bench.upstream import TOKEN, Site

_RELAYS = Path(__file__).parents[1] / "relays"


def aiohttp_relay(site: Site) -> Launch:
    return _launch(site, "aiohttp_relay.py", "aiohttp")


def naive_relay(site: Site) -> Launch:
    return _launch(site, "naive_relay.py", "starlette", "httpx")


def _launch(site: Site, file: str, *libraries: str) -> Launch:
    python = program("venv/bin/python", how="scripts/bench --get-peers")
    asked = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return Launch(
        (python, str(_RELAYS / file), str(site.port), site.tls, site.plain, str(site.ca_file)),
        first_line(python, "-c", asked, *libraries),
        mounted(site),
        {"BENCH_TOKEN": TOKEN},
    )
