"""Outbound proxies: which one, if any, leads to a host. The environment's variables end here."""

from collections.abc import Mapping

from proxy.config.addresses import Url, is_loopback, parse_proxy_url


def outbound_proxy(setting: str, url: Url, environ: Mapping[str, str]) -> str | None:
    """Return the proxy's URL that `setting` (`none`, `env` or a URL) means for `url`, or None.

    Loopback hosts are never proxied: the proxy's loopback is another machine. Raises ValueError if the environment
    names something that is no HTTP proxy.
    """
    if setting == "none" or is_loopback(url.host):
        return None
    if setting != "env":
        return setting
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # not in the stubs

    proxies = _proxies(environ)
    authority = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or proxy_bypass_environment(authority, proxies):
        return None
    try:
        return parse_proxy_url(found)
    except ValueError:
        raise ValueError(f'is "env", but {url.scheme}_proxy or all_proxy holds no URL of an HTTP proxy') from None


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables as urllib's getproxies_environment does, from a given mapping: lower case wins."""
    names = sorted((name for name in environ if name.lower().endswith("_proxy")), key=str.islower)
    proxies: dict[str, str] = {}
    for name in names:
        scheme = name.lower().removesuffix("_proxy")
        if environ[name] and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):  # httpoxy, CVE-2016-1000110
            proxies[scheme] = environ[name]
        elif name.islower():
            proxies.pop(scheme, None)
    return proxies
