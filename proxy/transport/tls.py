"""Whom we believe over TLS: one context for issuers and upstreams alike."""

import ssl
from collections.abc import Callable

import httpx2

from proxy.identities import Network

Trust = Callable[[Network], ssl.SSLContext]
"""Returns the context for HTTP/1.1 to hosts of a network. Several hosts may share one: the platform's authorities take
20 ms and a megabyte to read."""


def ssl_context(network: Network) -> ssl.SSLContext:
    """Return a verifying client context for `network`; there is no way to switch verification off.

    Without a `ca_file` the platform's certification authorities are trusted, and SSL_CERT_FILE is not looked at: what
    is trusted is said by the configuration. Raises OSError (ssl.SSLError is one) if `ca_file` cannot be read or holds
    no certificate.
    """
    if network.ca_file is None:
        context = httpx2.create_ssl_context(trust_env=False)
    else:
        context = ssl.create_default_context(cafile=network.ca_file)
    if not network.tls_strict:
        # Python 3.13 turned it on, and many private authorities lack the keyUsage that it asks for (RFC 5280 4.2.1.3).
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
