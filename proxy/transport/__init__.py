"""Connections to the upstreams: the one place where bytes, and the token, leave this machine."""
