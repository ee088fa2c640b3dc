"""Datasets beside the programs that read S3 themselves, in one run: `python -m bench.datasets [--mib 512]`.

nginx is the storage, so that it is nobody's bottleneck; what signs and lists is a stand-in. Each line is the median of
three rounds, and the ratio is to curl with the bare link, which does nothing but fetch.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench.programs import free_ports, program
from tests.command import serving
from tests.datasets.deployment import BUCKET, FOLDER, HANDLE, Deployment, File, deployed, sign_in

ROUNDS = 3
PARALLEL = 4
AWS = Path(__file__).parents[1] / ".venv-aws/bin/aws"
_NGINX = """
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; client_body_temp_path {folder}/tmp;
  server {{
    listen 127.0.0.1:{port};
    location ~ ^/{bucket}/?$ {{ proxy_pass {listing}; }}
    location / {{ root {folder}/files; add_header x-amz-bucket-region ap-southeast-2; }}
  }}
}}
"""


class Served(File):
    """A file of nginx's, with the ETag that it gives."""

    def __init__(self, place: Path) -> None:
        found = place.stat()
        super().__init__(size=found.st_size)
        self._etag = f'"{int(found.st_mtime):x}-{found.st_size:x}"'

    @property
    def etag(self) -> str:
        return self._etag


@asynccontextmanager
async def storage(folder: Path, mib: int) -> AsyncIterator[Deployment]:
    """Run a data store whose files are PARALLEL files of together `mib` MiB, served by nginx."""
    place = folder / "files" / BUCKET / FOLDER
    place.mkdir(parents=True)
    piece = os.urandom(1 << 20)
    for number in range(PARALLEL):
        with (place / f"{number}.bin").open("wb") as target:
            for _ in range(mib // PARALLEL):
                target.write(piece)
    (port,) = free_ports(1)
    async with deployed() as there:
        there.files = {one.name: Served(one) for one in place.iterdir()}
        # Else its worker may not enter the folder.
        user = "user root;" if sys.platform != "win32" and os.getuid() == 0 else ""
        text = _NGINX.format(user=user, folder=folder, port=port, bucket=BUCKET, listing=there.storage_url)
        (folder / "nginx.conf").write_text(text)
        nginx = program("nginx", how="apt-get install nginx-light")
        process = await asyncio.create_subprocess_exec(nginx, "-p", folder, "-c", folder / "nginx.conf")
        there.storage_url = f"http://127.0.0.1:{port}"
        try:
            yield there
        finally:
            process.terminate()
            await process.wait()


def timed(argv: list[str], environ: dict[str, str], clean: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a command takes, and those of processor that it uses; the median of the rounds."""
    seconds, processor = [], []
    for _ in range(ROUNDS):
        clean()
        before, began = os.times(), time.perf_counter()
        subprocess.run(argv, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        processor.append(used)
    return statistics.median(seconds), statistics.median(processor)


async def measured(folder: Path, mib: int) -> list[tuple[str, float, float]]:
    """Return (what, seconds, processor seconds) of each way to the same bytes."""
    async with storage(folder, mib) as there:
        await sign_in(str(folder / "state"))
        config = folder / "proxy.toml"
        config.write_text(there.configuration(str(folder / "state")))
        out = folder / "out"

        def clean() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder), "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "ap-southeast-2",
            "AWS_ENDPOINT_URL": there.storage_url, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        key = f"{BUCKET}/{FOLDER}0.bin"
        ours = [sys.executable, "-m", "proxy", "datasets", "get", HANDLE, "--to", str(out), "--config", str(config)]
        s3 = [str(AWS), "s3", "cp", "--no-progress"]
        environ |= {"PYTHONPATH": str(Path(__file__).parents[1])}
        async with serving(config) as proxy:
            url = f"{proxy.url}/provena/datasets/{HANDLE}/files/0.bin"
            lines = {
                "curl, the bare link, one file": ["curl", "-sfo", f"{out}/0.bin", f"{there.storage_url}/{key}"],
                "curl through bearerproxy, one file": ["curl", "-sfo", f"{out}/0.bin", url],
                "aws s3 cp, one file": [*s3, f"s3://{key}", f"{out}/0.bin"],
                "datasets get, one file": [*ours, "0.bin"],
                f"aws s3 cp, {PARALLEL} files": [*s3, "--recursive", f"s3://{BUCKET}/{FOLDER}", str(out)],
                f"datasets get, {PARALLEL} files": [*ours, "--parallel", str(PARALLEL)],
            }
            return [
                (what, *await asyncio.to_thread(timed, argv, environ, clean))
                for what, argv in lines.items()
                if "aws" not in what or AWS.exists()
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of all files together (default 512)")
    mib = parser.parse_args().mib
    with tempfile.TemporaryDirectory(prefix="bearerproxy-bench-") as folder:
        rows = asyncio.run(measured(Path(folder), mib))
    bare = {"one file": rows[0][1], f"{PARALLEL} files": rows[0][1] * PARALLEL}
    sys.stdout.write(f"{'':38}{'seconds':>9}{'CPU s':>8}{'ratio to curl':>15}\n")
    for what, seconds, processor in rows:
        ratio = seconds / bare[what.rpartition(", ")[2]]
        sys.stdout.write(f"{what:38}{seconds:9.2f}{processor:8.2f}{ratio:15.2f}\n")


if __name__ == "__main__":
    main()
