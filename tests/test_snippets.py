"""What there is to copy: made from the live configuration, and right in its own language."""

import ast
import shlex

import pytest

from proxy.snippets import environment, snippets, variable
from proxy.upstreams import Upstream

BASE = "http://localhost:8400"
DATA = Upstream("provena_data", "https", "data.example.org", 443, mount="/provena/data")
REST = Upstream("rest", "https", "nsi.example.org", 443, b"/rest", mount="/dotstat/rest")
CSV = Upstream("csv", "https", "nsi.example.org", 443, b"/rest", mount="/dotstat/csv", accept="text/csv")


def texts(upstream: Upstream) -> dict[str, str]:
    return {one.key: one.text for one in snippets(upstream, BASE)}


@pytest.mark.parametrize("upstream", [DATA, REST, CSV], ids=lambda one: one.name)
def test_each_snippet_has_the_live_base_url(upstream: Upstream) -> None:
    made = snippets(upstream, BASE)

    assert {"curl", "r", "httr2", "python", "pandas", "excel", "webservice", "powershell"} <= {one.key for one in made}
    assert len({one.key for one in made}) == len(made)
    assert all(BASE + upstream.mount in one.text for one in made)


def test_tools_for_sdmx_stand_where_sdmx_is() -> None:
    """rsdmx and sdmx1 read XML, not CSV, and nothing that is not SDMX."""
    assert {"rsdmx", "sdmx1"} <= set(texts(REST))
    assert {"rsdmx", "sdmx1"}.isdisjoint({*texts(DATA), *texts(CSV)})


@pytest.mark.parametrize("upstream", [DATA, REST, CSV], ids=lambda one: one.name)
def test_what_is_copied_can_be_parsed(upstream: Upstream) -> None:
    made = texts(upstream)

    path = "/" if upstream is DATA else "/data/FLOW/all"
    assert shlex.split(made["curl"]) == ["curl", "-g", f"{BASE}{upstream.mount}{path}"]
    for key in {"python", "pandas", "sdmx1"} & set(made):
        ast.parse(made[key])
    for key, text in made.items():
        assert text.count('"') % 2 == 0, key


def test_a_program_finds_each_base_url_in_its_environment() -> None:
    renviron, compose = environment((DATA, REST), BASE)

    assert renviron.text.splitlines() == [
        f"PROVENA_DATA_URL={BASE}/provena/data",
        f"REST_URL={BASE}/dotstat/rest",
        "no_proxy=localhost,127.0.0.1",
    ]
    assert "      PROVENA_DATA_URL: http://proxy:8400/provena/data" in compose.text.splitlines()
    assert variable(Upstream("a-b.c", "https", "x", 443)) == "A_B_C_URL"
