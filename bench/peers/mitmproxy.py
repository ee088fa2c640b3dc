"""mitmproxy in reverse mode, which sets the token on each request. It has a port for each upstream."""

from bench.peers.launch import Launch
from bench.programs import first_line, program
from bench.upstream import TOKEN, Site


def mitmproxy(site: Site) -> Launch:
    path = program("mitmproxy/bin/mitmdump", how="scripts/bench --get-peers (PyPI: mitmproxy)")
    doors = {"tls": (site.port, site.tls), "plain": (site.second_port, site.plain)}
    modes = [word for port, url in doors.values() for word in ("--mode", f"reverse:{url}@127.0.0.1:{port}")]
    settings = {
        "confdir": site.folder,
        "ssl_verify_upstream_trusted_ca": site.ca_file,
        "modify_headers": f"/~q/Authorization/Bearer {TOKEN}",
        "stream_large_bodies": "64k",
        "connection_strategy": "lazy",
        "flow_detail": 0,
    }
    return Launch(
        (path, "-q", *modes, *(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))),
        "mitmproxy " + first_line(path, "--version").rpartition(" ")[2],
        {door: f"http://127.0.0.1:{port}" for door, (port, _) in doors.items()},
    )
