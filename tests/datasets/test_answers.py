"""What a file may tell a caller, and what of the caller's conditions reaches the storage."""

import pytest

from proxy.datasets.answers import conditions, content_type, disposition, for_caller
from proxy.headers import Fields, first


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a/b.CSV", "text/csv; charset=utf-8"),
        ("x.parquet", "application/vnd.apache.parquet"),
        ("x.tif", "image/tiff"),
        ("x.nc", "application/x-netcdf"),
        ("store.zarr/.zarray", "application/json"),
        ("store.zarr/temperature/0.0.0", "application/octet-stream"),
        ("zarr.json", "application/json"),
        ("page.html", "text/html"),
        ("a.png", "image/png"),
        ("README", "application/octet-stream"),
        (".csv", "application/octet-stream"),
        ("x.unheardof", "application/octet-stream"),
    ],
)
def test_the_name_suggests_the_type(path: str, wanted: str) -> None:
    assert content_type(path) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a/b c.csv", b'inline; filename="b c.csv"'),
        ('q"\\.csv', b"inline; filename=\"q__.csv\"; filename*=UTF-8''q%22%5C.csv"),
        ("é.csv", b"inline; filename=\"_.csv\"; filename*=UTF-8''%C3%A9.csv"),
        ("100%.csv", b"inline; filename=\"100_.csv\"; filename*=UTF-8''100%25.csv"),
    ],
)
def test_a_file_keeps_its_name(path: str, wanted: bytes) -> None:
    assert disposition(path, is_attachment=False) == wanted


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.xml", "a.xhtml", "a.htm"])
def test_what_could_run_scripts_is_a_download(name: str) -> None:
    fields = for_caller([(b"content-type", b"text/plain")], name)

    assert (first(fields, b"content-disposition") or b"").startswith(b"attachment; ")


def test_every_file_is_sandboxed_and_unsniffed_and_the_storage_says_nothing_else() -> None:
    fields = for_caller(
        [
            (b"etag", b'"1"'),
            (b"content-length", b"3"),
            (b"content-type", b"text/html"),
            (b"content-disposition", b"attachment; filename=datasets/x/a.csv"),
            (b"set-cookie", b"a=b"),
            (b"x-amz-id-2", b"x"),
            (b"access-control-allow-origin", b"*"),
            (b"server", b"AmazonS3"),
        ],
        "a.csv",
    )

    assert dict(fields) == {
        b"etag": b'"1"',
        b"content-length": b"3",
        b"content-type": b"text/csv; charset=utf-8",
        b"content-disposition": b'inline; filename="a.csv"',
        b"accept-ranges": b"bytes",
        b"cache-control": b"private, no-cache",
        b"x-content-type-options": b"nosniff",
        b"content-security-policy": b"sandbox allow-scripts allow-forms allow-downloads",
    }


RANGE = (b"range", b"bytes=0-9")


@pytest.mark.parametrize(
    ("asked", "sent", "instead"),
    [
        ([], [], None),
        ([RANGE], [RANGE], None),
        ([RANGE, (b"if-range", b'"v1"')], [RANGE, (b"if-match", b'"v1"')], []),
        (
            [RANGE, (b"if-range", b"Tue, 01 Jan 2030 00:00:00 GMT")],
            [RANGE, (b"if-unmodified-since", b"Tue, 01 Jan 2030 00:00:00 GMT")],
            [],
        ),
        ([RANGE, (b"if-range", b'W/"v1"')], [], None),
        ([(b"if-range", b'"v1"')], [], None),
        ([(b"if-none-match", b'"a"'), (b"if-none-match", b'"b"')], [(b"if-none-match", b'"a", "b"')], None),
        ([RANGE, (b"if-range", b'"v1"'), (b"if-match", b'"v0"')], [(b"if-match", b'"v0"')], None),
        (
            [
                (b"authorization", b"Bearer canary"),
                (b"cookie", b"a=b"),
                (b"user-agent", b"R"),
                (b"x-forwarded-for", b"1.2.3.4"),
                (b"accept-encoding", b"gzip"),
                (b"referer", b"http://localhost/"),
            ],
            [],
            None,
        ),
    ],
)
def test_of_the_caller_only_conditions_reach_the_storage(asked: Fields, sent: Fields, instead: Fields | None) -> None:
    """No authorization, cookie or trace of who asks (S21); If-Range as two requests (RFC 9110 13.1.5)."""
    assert conditions(asked, "GET") == (sent, instead)


def test_a_range_counts_on_get_alone() -> None:
    """RFC 9110 14.2."""
    assert conditions([RANGE, (b"if-none-match", b'"a"')], "HEAD") == ([(b"if-none-match", b'"a"')], None)
