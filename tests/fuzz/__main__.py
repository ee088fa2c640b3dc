"""`scripts/fuzz --minutes N --seed S`: conversations that nobody had before, until the time is over.

A finding is shrunk, kept in corpus/ and ends the run with exit status 1: from then on every run of the tests sends it.
"""

import argparse
import hashlib
import sys
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.making import clean_conversations, hostile_conversations
from tests.fuzz.rig import Rig, rig

CORPUS = Path(__file__).parent / "corpus"
ROUND = settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def one_round(there: Rig, number: int, statuses: Counter[int]) -> bytes | None:
    """Hold a round of conversations, and return the last and smallest one that broke the law."""
    broken = [b""]

    @seed(number)
    @settings(ROUND)
    @given(
        pieces=st.one_of(hostile_conversations(), hostile_conversations(), clean_conversations()), leaves=st.booleans()
    )
    def conversations(pieces: list[bytes], *, leaves: bool) -> None:
        try:
            statuses.update(there.talk(pieces, leaves=leaves and len(pieces) % 3 == 0))
        except Exception:
            broken[0] = b"".join(pieces)
            raise

    try:
        conversations()
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the finding
        sys.stderr.write(f"{error}\n")
        return broken[0]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on; 5 unless given")
    parser.add_argument("--seed", type=int, default=0, help="which conversations; another number, others")
    arguments = parser.parse_args()
    until, number, statuses = time.monotonic() + arguments.minutes * 60, arguments.seed * 1_000_000, Counter[int]()
    with rig() as there:
        while time.monotonic() < until:
            if (finding := one_round(there, number, statuses)) is not None:
                path = CORPUS / f"found-{hashlib.sha256(finding).hexdigest()[:12]}.raw"
                path.write_bytes(finding)
                sys.stderr.write(f"Broken by {path}\n")
                return 1
            number += 1
            sys.stdout.write(f"round {number}: {sum(statuses.values())} answers, {dict(sorted(statuses.items()))}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
