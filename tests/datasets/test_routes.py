"""What a URL below `/provena/datasets` asks for, and what is refused before anybody is asked."""

import pytest

from proxy.datasets.handles import Handle, checked_path
from proxy.datasets.routes import Archive, File, Listing, Route, Search, route, url_path
from proxy.errors import BadRequest, NoUpstream

HANDLE = Handle("10378.1", "1001")


@pytest.mark.parametrize(
    ("path", "query", "wanted"),
    [
        (b"", b"", Search()),
        (b"/", b"?query=coral", Search()),
        (b"/10378.1/1001", b"", Listing(HANDLE)),
        (b"/10378.1/1001/", b"", Listing(HANDLE)),
        (b"/10378.1%2F1001/", b"", Listing(HANDLE)),
        (b"/10378.1%2f1001", b"", Listing(HANDLE)),
        (b"/10378.1/1001/files", b"", Listing(HANDLE)),
        (b"/10378.1/1001/files/", b"", Listing(HANDLE)),
        (b"/10378.1/1001/files/a/b/", b"", Listing(HANDLE, "a/b/")),
        (b"/10378.1/1001.zip", b"", Archive(HANDLE)),
        (b"/10378.1%2F1001.zip", b"", Archive(HANDLE)),
        (b"/10378.1/1001/", b"?format=zip", Archive(HANDLE)),
        (b"/10378.1/1001/files/a/", b"?format=zip", Archive(HANDLE, "a/")),
        (b"/10378.1/1001/files/a.csv", b"", File(HANDLE, "a.csv")),
        (b"/10378.1%2F1001/files/a.csv", b"", File(HANDLE, "a.csv")),
        (b"/10378.1/1001/files/a/b%20c+d.csv", b"?x=1", File(HANDLE, "a/b c+d.csv")),
        (b"/10378.1/1001/files/a%2Fb.csv", b"", File(HANDLE, "a/b.csv")),
        (b"/10378.1/1001/files/%C3%A9%23%25.csv", b"", File(HANDLE, "é#%.csv")),
        (b"/10378.1/1001/files/.zarray", b"", File(HANDLE, ".zarray")),
        (b"/102.100.100/12.zip/files/x", b"", File(Handle("102.100.100", "12.zip"), "x")),
    ],
)
def test_a_url_asks_for_one_thing(path: bytes, query: bytes, wanted: Route) -> None:
    assert route(path, query) == wanted


@pytest.mark.parametrize(
    "path",
    [
        b"/10378.1/1001/files/../x",
        b"/10378.1/1001/files/%2E%2e/x",
        b"/10378.1/1001/files/a..b",
        b"/10378.1/1001/files/a%2F%2Fb",
        b"/10378.1/1001/files//b",
        b"/10378.1/1001/files/a%5Cb",
        b"/10378.1/1001/files/a%00b",
        b"/10378.1/1001/files/a%0D%0Ab",
        b"/10378.1/1001/files/a%C2%85b",
        b"/10378.1/1001/files/./b",
        b"/10378.1/1001/files/a/%2e",
        b"/10378.1/1001/files/%FF",
        b"/10378.1/../1001/files/x",
        b"/10378.1/10%2001/files/x",
        b"/10378..1/1001/",
        b"//1001/",
        b"/10378.1/*/files/x",
    ],
)
def test_what_could_lead_elsewhere_is_refused_before_any_call(path: bytes) -> None:
    with pytest.raises((BadRequest, NoUpstream)):
        route(path)


@pytest.mark.parametrize("path", [b"/10378.1", b"/10378.1/", b"/10378.1/1001/other", b"/10378.1/1001/other/x"])
def test_other_places_are_not_ours(path: bytes) -> None:
    with pytest.raises(NoUpstream):
        route(path)


def test_the_folder_in_the_bucket_follows_from_the_handle_and_ends_with_a_slash() -> None:
    """Without the slash 10378.1/12 would list 10378.1/123 too."""
    assert Handle("102.100.100", "12").folder == "datasets/102-100-100-12/"


@pytest.mark.parametrize("path", ["a b+c#d%e?é.csv", "x/y/z.nc", ".zgroup", "a&b=c;d"])
def test_a_url_that_is_written_leads_to_the_file_it_was_written_for(path: str) -> None:
    written = url_path(HANDLE, path)

    assert route(written.encode("ascii")) == File(HANDLE, checked_path(path))
    assert not set("+#?& ") & set(written)
