"""Where token sets are kept, one module for each place, behind `TokenStore`."""

from proxy.stores.store import TokenStore, Trace

__all__ = ["TokenStore", "Trace"]
