"""What one run found, as it is kept in a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DIRECT = "direct"
"""In the place of a peer: no proxy at all."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one peer did in one scenario of one round."""

    round: int
    peer: str
    scenario: str
    values: Mapping[str, float]


@dataclass
class Results:
    """Everything that the tables and the plot are made of."""

    about: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    """By peer, of those that took part."""
    missing: dict[str, str] = field(default_factory=dict)
    """By peer, of those that did not: how to get them."""
    failures: dict[str, str] = field(default_factory=dict)
    """By "peer scenario": why there is no figure."""
    samples: list[Sample] = field(default_factory=list)
    calls: dict[str, dict[str, float]] = field(default_factory=dict)
    """By tool: the seconds of all calls, `direct` and `through`, and the `count` and `round_trip_ms` of them."""

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)

    def values(self, peer: str, scenario: str, name: str) -> dict[int, float]:
        """Return one figure by round."""
        return {
            sample.round: sample.values[name]
            for sample in self.samples
            if sample.peer == peer and sample.scenario == scenario and name in sample.values
        }

    def dump(self, file: Path) -> None:
        """Write the file: one sample a line, so that two runs can be compared by eye."""
        said = asdict(self)
        samples = ",\n  ".join(json.dumps(sample) for sample in _rounded(said.pop("samples")))
        head = json.dumps(said, indent=1, ensure_ascii=False)
        file.write_text(f'{head[:-2]},\n "samples": [\n  {samples}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "Results":
        """Read what `dump` wrote."""
        said: dict[str, Any] = json.loads(file.read_text("utf-8"))  # Any: JSON
        samples = [Sample(**sample) for sample in said.pop("samples")]
        return cls(samples=samples, **said)


def _rounded(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep four digits of each figure: more than the clock of a shared machine is worth."""
    return [
        sample | {"values": {name: float(f"{value:.4g}") for name, value in sample["values"].items()}}
        for sample in samples
    ]
