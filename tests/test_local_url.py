"""From a pasted upstream address to the local one."""

import pytest

from proxy.local_url import local_url
from proxy.upstreams import Upstream

BASE = "http://localhost:8400"
UPSTREAMS = (
    Upstream("data", "https", "data-api.example.org", 443, mount="/provena/data", deny=("/admin",), read_only=True),
    Upstream("rest", "https", "nsi.example.org", 443, b"/rest", mount="/dotstat/rest"),
    Upstream("csv", "https", "nsi.example.org", 443, b"/rest", mount="/dotstat/csv", accept="text/csv"),
    Upstream("v2", "https", "nsi.example.org", 443, b"/rest/v2", mount="/dotstat/v2"),
    Upstream("lab", "http", "10.0.0.7", 8080, mount="/lab"),
    Upstream("six", "http", "fd00::7", 8080, mount="/six"),
)


@pytest.mark.parametrize(
    ("pasted", "url"),
    [
        ("https://data-api.example.org/", "/provena/data/"),
        ("https://data-api.example.org", "/provena/data/"),
        ("  https://data-api.example.org/a?b=c&b=d \n", "/provena/data/a?b=c&b=d"),
        ("https://DATA-API.example.org:443/a", "/provena/data/a"),
        ("http://data-api.example.org/a", "/provena/data/a"),
        ("data-api.example.org/a", "/provena/data/a"),
        ("https://nsi.example.org/rest", "/dotstat/rest"),
        ("https://nsi.example.org/rest/data/A,B,1.0/A.AU+BR./all/?x=%2B01%3A00&y=a+b",
         "/dotstat/rest/data/A,B,1.0/A.AU+BR./all/?x=%2B01%3A00&y=a+b"),
        ("https://nsi.example.org/rest/v2/data", "/dotstat/v2/data"),
        ("https://nsi.example.org/rest/v20/data", "/dotstat/rest/v20/data"),
        ("https://nsi.example.org/rest/a b?c=é", "/dotstat/rest/a%20b?c=%C3%A9"),
        ("https://nsi.example.org/rest/a?", "/dotstat/rest/a?"),
        ("curl -H 'Accept: text/csv' 'https://nsi.example.org/rest/a b' -o x.csv", "/dotstat/rest/a%20b"),
        ('df <- read.csv("https://nsi.example.org/rest/a")', "/dotstat/rest/a"),
        ("https://nsi.example.org/rest/data/x/A.AU.", "/dotstat/rest/data/x/A.AU."),
        ("see https://nsi.example.org/rest/a.", "/dotstat/rest/a"),
        ("<https://nsi.example.org/rest/a>", "/dotstat/rest/a"),
        ("http://10.0.0.7:8080/x", "/lab/x"),
        ("http://[fd00::7]:8080/x", "/six/x"),
        ("http://127.0.0.1:8400/dotstat/rest/x?y", "/dotstat/rest/x?y"),
    ],
)  # fmt: skip
def test_an_address_that_fits(pasted: str, url: str) -> None:
    found = local_url(pasted, UPSTREAMS, BASE)

    assert found.url == BASE + url
    assert found.reason


@pytest.mark.parametrize(
    ("pasted", "reason"),
    [
        ("", "no web address"),
        ("what is this?", "no web address"),
        ("https://", "no web address"),
        ("https://[::bad/x", "no web address"),
        (
            "https://other.example.org/x",
            "No mount leads to other.example.org. Mounted hosts: data-api.example.org, nsi",
        ),
        ("https://data-api.example.org:8443/x", "No mount leads to data-api.example.org:8443."),
        ("https://nsi.example.org/restful", "nsi.example.org is mounted, but only what is below https://nsi.example"),
        ("https://nsi.example.org/rest/data/..", "write 'all' instead"),
        ("https://nsi.example.org/rest/x?access_token=abc", "leave it away"),
        ("http://localhost:8400/elsewhere", "no mount holds its path"),
    ],
)
def test_an_address_that_fits_nowhere_gets_the_reason(pasted: str, reason: str) -> None:
    found = local_url(pasted, UPSTREAMS, BASE)

    assert found.url is None
    assert reason in found.reason


@pytest.mark.parametrize(
    ("pasted", "note"),
    [
        ("http://data-api.example.org/a", "The proxy speaks https to it."),
        ("https://me:pw@data-api.example.org/a", "User name and password are left out"),
        ("https://data-api.example.org/a#part", "What stands behind # is for browsers alone"),
        ("https://data-api.example.org/a b", "percent-encoded"),
        ("https://data-api.example.org/admin/x", "Reading it will be refused: /admin is never relayed"),
    ],
)
def test_what_is_different_there_is_said(pasted: str, note: str) -> None:
    (fit,) = local_url(pasted, UPSTREAMS, BASE).fits

    assert any(note in one for one in fit.notes), fit.notes
    assert "pw@" not in fit.url


def test_mounts_of_one_service_are_all_offered() -> None:
    fits = local_url("https://nsi.example.org/rest/data/x", UPSTREAMS, BASE).fits

    assert [one.url for one in fits] == [f"{BASE}/dotstat/rest/data/x", f"{BASE}/dotstat/csv/data/x"]
    assert fits[1].notes == ("Tools that ask for no format get text/csv.",)
