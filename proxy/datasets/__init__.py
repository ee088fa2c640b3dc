"""Datasets of a Provena deployment by handle: files as plain URLs, lists, whole datasets as one ZIP, searching.

The way of one file: `routes` (what does this URL ask for?) → `library` → `data_api.presign` (kept per handle and
path) → `storage` (a GET without our token) → `download` (goes on where a connection or a link ended) → `answers`
(field policy).
"""
