"""What `serve` shows a person when it is ready."""

from rich.markup import escape
from rich.table import Table

from proxy.app import App
from proxy.cli.terminal import err

_STATES = {"ready": "signed in", "sign-in-required": "sign-in needed", "issuer-unavailable": "issuer away"}


def print_overview(app: App) -> None:
    """Print the mounts, the states and the page's link to standard error."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for upstream in app.configuration.upstreams:
        table.add_row(f"  [bold]{app.base_url}{upstream.mount}/[/]", f"[dim]{upstream.url}[/]", upstream.identity or "")
    err.print()
    err.print(table)
    err.print()
    for source in app.sources.values():
        status = source.status()
        colour = "green" if status.state == "ready" else "yellow"
        who = f" as {escape(status.username)}" if status.username and status.state == "ready" else ""
        words = _STATES.get(status.state, status.state)
        err.print(f"  {status.name}: [{colour}]{words}[/]{who}  {escape(status.detail)}", soft_wrap=True)
    err.print(f"\n  Status page: [link={app.base_url}/]{app.base_url}/[/]   Stop with Ctrl-C.\n")
