"""Fixtures of the real issuer, for any test in the tree (tests/conftest.py loads them)."""
