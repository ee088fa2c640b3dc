"""Who takes part: each module says how its program is found, configured and started to do what bearerproxy does."""

from collections.abc import Callable, Collection, Mapping

from bench.peers.bearerproxy import bearerproxy, fast, workers
from bench.peers.caddy import caddy_current, caddy_debian
from bench.peers.envoy import envoy
from bench.peers.haproxy import haproxy
from bench.peers.launch import Launch
from bench.peers.mitmproxy import mitmproxy
from bench.peers.nginx import nginx
from bench.peers.relays import aiohttp_relay, naive_relay
from bench.upstream import Site

OURS = "bearerproxy"

PEERS: Mapping[str, Callable[[Site], Launch]] = {
    OURS: bearerproxy,
    "envoy": envoy,
    "caddy-current": caddy_current,
    "caddy-debian": caddy_debian,
    "nginx": nginx,
    "haproxy": haproxy,
    "mitmproxy": mitmproxy,
    "aiohttp": aiohttp_relay,
    "naive": naive_relay,
}
"""By name. Each raises MissingPartError, with a sentence, where the machine lacks it."""

VARIANTS: Mapping[str, Callable[[Site], Launch]] = {"fast": fast, "workers": workers}
"""bearerproxy once more, in other ways to run it."""

OF_VARIANTS: Mapping[str, Collection[str]] = {
    "fast": ("bare", "fields", "down", "up"),
    "workers": ("bare", "fields", "many"),
}
"""The scenarios in which a variant can differ."""

TITLES: Mapping[str, str] = {
    "envoy": "Envoy, credential injector",
    "caddy-current": "Caddy, current",
    "caddy-debian": "Caddy of Debian",
    "nginx": "nginx",
    "haproxy": "HAProxy",
    "mitmproxy": "mitmproxy, reverse mode",
    "aiohttp": "aiohttp relay",
    "naive": "Starlette + httpx",
    "fast": "bearerproxy[fast]",
    "workers": "bearerproxy, two workers",
}
