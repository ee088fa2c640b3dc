"""bearerproxy: a local reverse proxy that presents a bearer token for tools that cannot obtain one."""

__version__ = "0.1.0"
