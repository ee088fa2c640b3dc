"""What the machine says of itself."""

from collections.abc import Mapping
from pathlib import Path

_MARKS = (".dockerenv", "run/.containerenv", "run/host/container-manager")
"""Left by Docker, by Podman, and by what follows systemd's container interface."""
_KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""Set in every container of a pod, whatever runs it."""
_APPTAINER = ".singularity.d"
"""A container of the computing centres: it shares users and network with the machine, and so is none here."""


def is_container(environ: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Return whether this process has users and network of a container, and not those of a machine with people."""
    if (root / _APPTAINER).is_dir():
        return False
    return _KUBERNETES in environ or any((root / mark).exists() for mark in _MARKS)
