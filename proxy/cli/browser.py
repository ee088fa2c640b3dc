"""The person's browser: a program that we start, so it gets nothing of ours but the link."""

import subprocess
import sys
from collections.abc import Mapping

# Isolated, because Python would else look for modules in the folder that the person stands in.
_OPENER = (sys.executable, "-I", "-c", "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))")


def open_page(url: str, environ: Mapping[str, str]) -> bool:
    """Open `url` in a program whose environment is `environ`; returns whether one was found. Raises OSError."""
    return subprocess.run([*_OPENER, url], env=environ, check=False).returncode == 0  # noqa: S603 - ourselves
