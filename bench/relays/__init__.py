"""Relays on Python libraries, each a program of its own."""
