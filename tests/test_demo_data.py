"""The demo's binary files are what their generator makes, so that it can be trusted to make them again."""

from pathlib import Path

from tests import demo_data


def test_the_grids_of_the_demo_are_those_that_are_made() -> None:
    assert (demo_data.FOLDER / "grids" / "sst-monthly.nc").read_bytes() == demo_data.netcdf()
    assert (demo_data.FOLDER / "grids" / "depth.tif").read_bytes() == demo_data.geotiff()


def test_the_table_of_the_demo_holds_the_rows_that_are_made(tmp_path: Path) -> None:
    """Rows, not bytes: each release of pyarrow writes its own version into the file."""
    import pyarrow.parquet as pq

    demo_data.parquet(tmp_path / "made.parquet")
    made, kept = (pq.read_table(path) for path in (tmp_path / "made.parquet", demo_data.FOLDER / "sst-by-zone.parquet"))

    assert made.equals(kept)
    assert made.num_rows == 480
