"""What a check says."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How it stands; the values are on the wire."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing has to change."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Short and stable: `clock`, `certificate`, `call`…"""
    about: str
    """What was looked at: a host, `[identity.me]`, `[upstream.data]`, a port, a folder."""
    verdict: Verdict
    text: str
    """What is so, in one sentence; no secret, no token."""
    cure: str = ""
    """What to do; empty where nothing has to be done."""

    @classmethod
    def ok(cls, check: str, about: str, text: str) -> "Finding":
        return cls(check, about, Verdict.OK, text)

    @classmethod
    def note(cls, check: str, about: str, text: str, cure: str = "") -> "Finding":
        return cls(check, about, Verdict.NOTE, text, cure)

    @classmethod
    def wrong(cls, check: str, about: str, text: str, cure: str) -> "Finding":
        return cls(check, about, Verdict.WRONG, text, cure)
