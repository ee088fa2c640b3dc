"""Lines to copy into a tool, made from the running configuration. Pure.

The base URL in each is the live one, so that it works as it is copied; FLOW stands for a dataflow of one's own. A word
of advice says what a tool does that nobody would expect.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.upstreams import Upstream

_SDMX_CSV = "application/vnd.sdmx.data+csv"


@dataclass(frozen=True, slots=True)
class Snippet:
    """What one tool needs."""

    key: str
    """Short and stable: `r`, `httr2`, `powershell`…"""
    title: str
    text: str
    advice: str = ""
    """One sentence; empty if there is nothing to say."""


def snippets(upstream: Upstream, base_url: str) -> tuple[Snippet, ...]:
    """Return the lines for one upstream; `base_url` is the proxy's origin, `http://localhost:8400`."""
    url = base_url + upstream.mount
    asked = url + _path(upstream)
    made = [
        Snippet("curl", "curl", f"curl -g '{asked}'", "-g keeps curl from reading brackets and braces as a pattern."),
        *_r(upstream, url),
        *_python(upstream, url),
        *_excel(upstream, url),
        Snippet("powershell", "PowerShell", f"Invoke-RestMethod -Uri '{asked}'"),
    ]
    return tuple(made)


def environment(upstreams: Sequence[Upstream], base_url: str) -> tuple[Snippet, ...]:
    """Return what tells a whole program where each upstream is: `.Renviron`, and a service of a compose file."""
    lines = [f"{variable(one)}={base_url}{one.mount}" for one in upstreams]
    service = [f"      {variable(one)}: http://proxy:{_port(base_url)}{one.mount}" for one in upstreams]
    return (
        Snippet(
            "renviron",
            ".Renviron",
            "\n".join([*lines, "no_proxy=localhost,127.0.0.1"]),
            "R reads it at its start; then Sys.getenv() has each base URL. no_proxy keeps a company's proxy out.",
        ),
        Snippet(
            "compose",
            "compose",
            "\n".join(["services:", "  model:", "    environment:", *service]),
            "For a container beside the proxy's own, which is called proxy there.",
        ),
    )


def variable(upstream: Upstream) -> str:
    """Return the environment variable that a program may expect an upstream's base URL in: `PROVENA_DATA_URL`."""
    return re.sub(r"[^A-Z0-9]+", "_", upstream.name.upper()).strip("_") + "_URL"


def _port(base_url: str) -> str:
    return base_url.rpartition(":")[2]


def _is_csv(upstream: Upstream) -> bool:
    return upstream.accept is not None and "csv" in upstream.accept


def _speaks_sdmx(upstream: Upstream) -> bool:
    """Return whether it is an SDMX web service: their REST interface stands at `/rest` (or `/rest/v2`)."""
    return b"/rest" in upstream.base_path


def _path(upstream: Upstream) -> str:
    """Return what the lines ask for below the base URL: an SDMX service has nothing at its root."""
    return "/data/FLOW/all" if _is_csv(upstream) or _speaks_sdmx(upstream) else "/"


def _r(upstream: Upstream, url: str) -> list[Snippet]:
    asked = url + _path(upstream)
    base = (
        Snippet("r", "R", f'data <- read.csv("{asked}")')
        if _is_csv(upstream)
        else Snippet("r", "R", f'lines <- readLines("{asked}")', "Base R shows a failure's status and not its text.")
    )
    httr2 = f'library(httr2)\n\nanswer <- request("{asked}") |> req_perform()\ncat(resp_body_string(answer))'
    made = [base, Snippet("httr2", "R, httr2", httr2)]
    if _speaks_sdmx(upstream) and not _is_csv(upstream):
        rsdmx = f'library(rsdmx)\n\nsdmx <- readSDMX("{url}/data/FLOW/all")\ndata <- as.data.frame(sdmx)'
        made.append(Snippet("rsdmx", "R, rsdmx", rsdmx))
    return made


def _python(upstream: Upstream, url: str) -> list[Snippet]:
    requests = f'import requests\n\nanswer = requests.get("{url}{_path(upstream)}")\nanswer.raise_for_status()'
    made = [Snippet("python", "Python, requests", requests)]
    if _is_csv(upstream):
        pandas = f'import pandas\n\ndata = pandas.read_csv("{url}/data/FLOW/all")'
        made.append(Snippet("pandas", "Python, pandas", pandas))
    elif _speaks_sdmx(upstream):
        asked = f'storage_options={{"Accept": "{_SDMX_CSV}"}}'
        pandas = f'import pandas\n\ndata = pandas.read_csv("{url}/data/FLOW/all", {asked})'
        source = f'{{"id": "LOCAL", "name": "{upstream.name}", "url": "{url}"}}'
        sdmx1 = f'import sdmx\n\nsdmx.add_source({source})\nflows = sdmx.Client("LOCAL").dataflow(agency_id="all")'
        made += [
            Snippet("pandas", "Python, pandas", pandas),
            Snippet("sdmx1", "Python, sdmx1", sdmx1, "Without agency_id it would ask for the agency LOCAL."),
        ]
    else:
        pandas = f'import pandas\n\ndata = pandas.read_csv("{url}/path/of/a.csv")'
        made.append(Snippet("pandas", "Python, pandas", pandas))
    return made


def _excel(upstream: Upstream, url: str) -> list[Snippet]:
    path = _path(upstream)
    content = f'Web.Contents("{url}{path}")'
    query = f"let\n  Source = Csv.Document({content})\nin\n  Source" if _is_csv(upstream) else content
    return [
        Snippet("excel", "Excel, Power Query", query, "Choose Anonymous when Excel asks how to sign in."),
        Snippet("webservice", "Excel, cell", f'=WEBSERVICE("{url}{path}")', "A cell holds up to 32,767 characters."),
    ]
