"""The demo's binary data files: a NetCDF (classic), a GeoTIFF and a Parquet, all invented, all small.

    python -m tests.demo_data        writes them where the demo finds them; commit what it wrote

It stands beside the tests because the Parquet needs pyarrow, which the package itself does without.
"""

import math
import struct
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "proxy/demo/data/store/10378-1-1005"
LATITUDES = [-14.0 - 0.25 * row for row in range(40)]
LONGITUDES = [143.0 + 0.25 * column for column in range(40)]
MONTHS = 12


def temperature(month: int, latitude: float, longitude: float) -> float:
    """Return an invented sea surface temperature in degrees Celsius."""
    season = 3.2 * math.cos(2 * math.pi * (month - 1) / 12)
    return round(27.4 + season + 0.28 * (latitude + 14) + 0.15 * math.sin(longitude), 2)


def netcdf() -> bytes:
    """Return a NetCDF classic file (CDF-1): sst(month, latitude, longitude) and its three axes."""

    def name(text: str) -> bytes:
        raw = text.encode()
        return struct.pack(">i", len(raw)) + raw + b"\0" * (-len(raw) % 4)

    def attributes(said: dict[str, str]) -> bytes:
        if not said:
            return struct.pack(">ii", 0, 0)
        each = b"".join(name(key) + struct.pack(">i", 2) + name(value) for key, value in said.items())
        return struct.pack(">ii", 0x0C, len(said)) + each

    dimensions = [("month", MONTHS), ("latitude", len(LATITUDES)), ("longitude", len(LONGITUDES))]
    grid = [temperature(m, y, x) for m in range(1, MONTHS + 1) for y in LATITUDES for x in LONGITUDES]
    variables = [
        ("month", [0], {"units": "1"}, [float(m) for m in range(1, MONTHS + 1)]),
        ("latitude", [1], {"units": "degrees_north", "standard_name": "latitude"}, LATITUDES),
        ("longitude", [2], {"units": "degrees_east", "standard_name": "longitude"}, LONGITUDES),
        ("sst", [0, 1, 2], {"units": "degC", "long_name": "sea surface temperature"}, grid),
    ]

    def head(starts: list[int]) -> bytes:
        parts = [b"CDF\x01", struct.pack(">i", 0), struct.pack(">ii", 0x0A, len(dimensions))]
        parts += [name(key) + struct.pack(">i", size) for key, size in dimensions]
        parts += [attributes({"title": "Invented for the demo of bearerproxy", "Conventions": "CF-1.8"})]
        parts += [struct.pack(">ii", 0x0B, len(variables))]
        for (key, axes, said, values), start in zip(variables, starts, strict=True):
            parts += [name(key), struct.pack(f">{len(axes) + 1}i", len(axes), *axes), attributes(said)]
            parts += [struct.pack(">iii", 5, 4 * len(values), start)]
        return b"".join(parts)

    starts, position = [], len(head([0] * len(variables)))
    for _, _, _, values in variables:
        starts.append(position)
        position += 4 * len(values)
    return head(starts) + b"".join(struct.pack(f">{len(values)}f", *values) for _, _, _, values in variables)


def geotiff() -> bytes:
    """Return an uncompressed GeoTIFF of one band of floats, in strips of one row, in EPSG:4326."""
    width = height = 128
    rows = [
        struct.pack(f"<{width}f", *(20 + 15 * math.sin(x / 17) * math.cos(y / 23) for x in range(width)))
        for y in range(height)
    ]
    keys: list[float] = [1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326]
    tags: list[tuple[int, int, list[float]]] = [
        (256, 3, [width]), (257, 3, [height]), (258, 3, [32]), (259, 3, [1]), (262, 3, [1]), (273, 4, [0] * height),
        (277, 3, [1]), (278, 3, [1]), (279, 4, [4 * width] * height), (339, 3, [3]),
        (33550, 12, [0.01, 0.01, 0.0]), (33922, 12, [0.0, 0.0, 0.0, 145.0, -16.0, 0.0]), (34735, 3, keys),
    ]  # fmt: skip
    kinds = {3: "H", 4: "I", 12: "d"}

    def head(first_strip: int) -> bytes:
        entries, blob = [], b""
        behind = 8 + 2 + 12 * len(tags) + 4
        for tag, kind, values in tags:
            listed = [first_strip + 4 * width * y for y in range(height)] if tag == 273 else values
            raw = struct.pack(f"<{len(listed)}{kinds[kind]}", *listed)
            place = raw.ljust(4, b"\0")
            if len(raw) > 4:
                place = struct.pack("<I", behind + len(blob))
                blob += raw
            entries.append(struct.pack("<HHI", tag, kind, len(listed)) + place)
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + struct.pack("<I", 0) + blob

    return head(len(head(0))) + b"".join(rows)


def parquet(path: Path) -> None:
    """Write a Parquet of monthly means by reef zone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    zones = {"far north": -14.0, "north": -16.5, "central": -19.0, "south": -22.0}
    rows = [
        {"zone": zone, "year": year, "month": month, "sst": temperature(month, latitude, 147.0 + year % 7)}
        for zone, latitude in zones.items()
        for year in range(2015, 2025)
        for month in range(1, 13)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=120, compression="none")


def main() -> None:
    """Write all three."""
    (FOLDER / "grids").mkdir(parents=True, exist_ok=True)
    (FOLDER / "grids" / "sst-monthly.nc").write_bytes(netcdf())
    (FOLDER / "grids" / "depth.tif").write_bytes(geotiff())
    parquet(FOLDER / "sst-by-zone.parquet")


if __name__ == "__main__":
    main()
