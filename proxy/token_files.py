"""What other programs keep: the refresh tokens in their cache files, read without judging them. Pure.

The existing Provena clients for Python write `.tokens.json` into the working folder:
- mds-is-client-tools: `{"stages": {"TEST": null, "PROD": {"access_token": "…", "refresh_token": "…"}}}`; what it wrote
  while it used an offline token has no refresh token in it;
- provenaclient: `{"access_token": "…", "refresh_token": "…"}`.
Its file for offline tokens, and everybody else's, is the bare token.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import NotTakenOver

LIMIT = 1024 * 1024
"""Characters; a cache file has some thousand."""
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class FoundTokens:
    """A refresh token, and the access token beside it if there was one."""

    refresh_token: str = field(repr=False)
    access_token: str | None = field(default=None, repr=False)


def found_tokens(text: str) -> Mapping[str | None, FoundTokens]:
    """Return the refresh tokens in `text` by stage; the stage is None where a program knows none.

    Raises NotTakenOver, with one sentence that repeats nothing of the text, if there is none.
    """
    if len(text) > LIMIT:
        raise NotTakenOver("That is far too long for a token or a token cache.")
    bare = text.strip()
    if not bare.startswith(("{", "[")):
        if not _TOKEN.fullmatch(bare):
            raise NotTakenOver("That is neither one refresh token nor the token cache of a Provena client.")
        return {None: FoundTokens(bare)}
    try:
        said = json.loads(bare)
    except (ValueError, RecursionError):
        raise NotTakenOver("That begins as JSON and is not; is the file whole?") from None
    if not isinstance(said, dict):
        raise NotTakenOver("That is JSON, but not the token cache of a Provena client.")
    stages = said.get("stages")
    entries = stages if isinstance(stages, dict) else {None: said}
    found = {stage: tokens for stage, entry in entries.items() if (tokens := _entry(entry)) is not None}
    if not found:
        raise NotTakenOver(
            "There is no refresh token in that file. Provena's clients leave it out when they are given an offline "
            "token: take that one over instead."
        )
    return found


def _entry(said: object) -> FoundTokens | None:
    if not isinstance(said, dict):
        return None
    refresh_token, access_token = said.get("refresh_token"), said.get("access_token")
    if not isinstance(refresh_token, str) or not _TOKEN.fullmatch(refresh_token):
        return None
    return FoundTokens(refresh_token, access_token if isinstance(access_token, str) else None)
