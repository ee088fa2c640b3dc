"""The programs that people read files with, each given a dataset's URL and nothing else."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients import programs
from tests.conftest import need, need_program
from tests.datasets.deployment import sign_in
from tests.datasets.house import House, house, signed_in
from tests.datasets.test_face import CONTENT, ODD

pytestmark = pytest.mark.client

COVER = "/10378.1/1001/files/coral-cover.csv"
TIF = "/10378.1/1005/files/grids/depth.tif"
AWS = Path(__file__).parents[2] / ".venv-aws/bin/aws"
"""In an environment of its own: it pins botocore to the day, which moto does too."""


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def test_curl_reads_ranges_and_revalidates(there: House, tmp_path: Path) -> None:
    part = await programs.curl(there.url + TIF, "--range", "100-199")
    tag = tmp_path / "etag"
    await programs.curl(there.url + TIF, "--etag-save", str(tag), "--output", str(tmp_path / "depth.tif"))
    again = await programs.curl(there.url + TIF, "--etag-compare", str(tag), "--write-out", "%{http_code}")
    (tmp_path / "half.tif").write_bytes(CONTENT[:30_000])
    await programs.curl(there.url + TIF, "--continue-at", "-", "--output", str(tmp_path / "half.tif"))
    missing = await programs.curl(there.url + "/10378.1/1005/files/no", "--fail")

    assert part.output == CONTENT[100:200]
    assert again.text == "304"
    assert (tmp_path / "half.tif").read_bytes() == (tmp_path / "depth.tif").read_bytes() == CONTENT
    assert missing.exit_status == 22


async def test_r_reads_a_csv(there: House) -> None:
    cover = await programs.r_read_csv(there.url + COVER)
    odd = await programs.r_read_csv(there.url + ODD)

    assert cover.output.splitlines()[0].startswith(b"reef,")
    assert len(cover.output.splitlines()) == 101
    assert odd.output.splitlines()[1].startswith(b"Agincourt,")


async def test_pandas_reads_csv_and_parquet(there: House) -> None:
    cover = await programs.pandas_read_csv(there.url + COVER)
    zones = await programs.python(
        "import sys, pandas; print(pandas.read_parquet(sys.argv[1]).groupby('zone').sst.count().to_dict())",
        there.file("sst-by-zone.parquet"),
    )

    assert len(cover.output.splitlines()) == 101
    assert zones.text.strip() == "{'central': 120, 'far north': 120, 'north': 120, 'south': 120}", zones.complaint


async def test_gdal_reads_a_map_and_a_grid_by_ranges(there: House) -> None:
    gdalinfo = need_program("gdalinfo", how="apt-get install gdal-bin")
    tif = await programs.run(gdalinfo, "-stats", "/vsicurl/" + there.url + TIF)
    grid = await programs.run(gdalinfo, "/vsicurl/" + there.file("grids/sst-monthly.nc"))

    assert "Size is 128, 128" in tif.text
    assert "STATISTICS_VALID_PERCENT=100" in tif.text, tif.complaint
    assert "sst#units=degC" in grid.text, grid.complaint
    assert any(one.status == 206 for one in there.relayed)
    assert there.presigns() == 2, "GDAL looks for two dozen files beside each; none may be a call"


async def test_the_aws_cli_lists_with_credentials_of_ours(there: House, tmp_path: Path) -> None:
    """By `credential_process`: it asks our command for keys itself, and the storage checks its signatures."""
    if not AWS.exists():
        need("the AWS CLI", how="python3 -m venv .venv-aws && .venv-aws/bin/pip install awscli")
    state = str(tmp_path / "state")
    file = tmp_path / "command.toml"
    text = (tmp_path / "proxy.toml").read_text("utf-8").replace('kind = "memory"', f'kind = "file"\npath = "{state}"')
    file.write_text(text, "utf-8")
    await sign_in(state, signed_in(there.demo, there.app._clock))
    ours = f"{sys.executable} -m proxy datasets credentials 10378.1/1005 --config {file}"
    (tmp_path / "aws").write_text(f"[profile reef]\nregion = ap-southeast-2\ncredential_process = {ours}\n")
    listed = await programs.run(
        "/usr/bin/env", f"AWS_CONFIG_FILE={tmp_path / 'aws'}", "AWS_EC2_METADATA_DISABLED=true", AWS,
        "--profile", "reef", "--endpoint-url", there.demo.storage_url,
        "s3", "ls", "--recursive", "s3://demo-store/datasets/10378-1-1005/",
        deadline_seconds=180,  # two interpreters start, one of them with botocore
    )  # fmt: skip

    assert listed.exit_status == 0, listed.complaint
    assert "datasets/10378-1-1005/grids/depth.tif" in listed.text
    assert len(listed.text.splitlines()) == 8
