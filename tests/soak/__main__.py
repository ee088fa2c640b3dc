"""`python -m tests.soak --minutes 2`: exit status 0 if everything held, 1 if not, 130 if interrupted."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from tests.conftest import FOREIGN
from tests.keycloak.server import MissingPartError
from tests.soak.checks import as_json, judge, table
from tests.soak.run import Options, soak


def main() -> int:
    asked = _arguments()
    if sys.platform != "linux":
        _say("The soak reads memory and descriptors from /proc: run it on Linux.", sys.stderr)
        return 1
    options = Options(asked.minutes * 60, asked.seed, asked.issuer, asked.callers, asked.log)
    with tempfile.TemporaryDirectory(prefix="soak-home-") as home:
        _become_strange(Path(home))
        try:
            return asyncio.run(_soak(options, asked.json))
        except MissingPartError as missing:
            _say(missing, sys.stderr)
            return 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            _say("Interrupted; everything that was started has been ended.", sys.stderr)
            return 130


async def _soak(options: Options, file: Path | None) -> int:
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    record = await soak(options, _say)
    rows = judge(record)
    _say(f"\n{table(rows)}")
    if file is not None:
        await asyncio.to_thread(file.write_text, json.dumps(as_json(record, rows), indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.holds for row in rows) else 1


def _say(what: object, to: TextIO | None = None) -> None:
    print(what, file=to or sys.stdout, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Run the proxy under faults, and judge it.")
    parser.add_argument("--minutes", type=float, required=True, help="How long callers call.")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%j%H%M")), help="Decides what goes wrong when.")
    parser.add_argument("--issuer", choices=("keycloak", "demo"), default="keycloak", help="demo needs no Java.")
    parser.add_argument("--callers", type=int, default=50, help="How many tools at once.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the verdict and its series there.")
    parser.add_argument("--log", type=Path, metavar="FILE", help="Write the proxy's log there.")
    return parser.parse_args()


def _become_strange(home: Path) -> None:
    """Let no setting and no sign-in of the person who runs this get into the proxy, as tests/conftest.py does."""
    for name in [*os.environ]:  # noqa: TID251 - of the programs that are started
        if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
            del os.environ[name]  # noqa: TID251
    for kind in ("CONFIG", "STATE", "DATA"):
        os.environ[f"XDG_{kind}_HOME"] = str(home / kind.lower())  # noqa: TID251


if __name__ == "__main__":
    sys.exit(main())
