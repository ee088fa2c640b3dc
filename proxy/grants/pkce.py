"""Proof that who spends a code is who asked for it (RFC 7636), S256 alone."""

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Proof:
    """One flow's verifier; made anew for each."""

    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    @property
    def challenge(self) -> list[tuple[str, str]]:
        """Parameters of the request that asks for a code."""
        # Not above: only a person who signs in needs it, and forty modules come with it.
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

        return [
            ("code_challenge", str(create_s256_code_challenge(self.verifier))),
            ("code_challenge_method", "S256"),
        ]
