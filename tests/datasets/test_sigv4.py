"""Our signatures are botocore's, to the last digit."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.datasets.sigv4 import Credentials, Place, canonical, signed_fields, signed_link
from proxy.headers import first

NOW = datetime(2026, 11, 21, 8, 3, 38, tzinfo=UTC)
CREDENTIALS = Credentials("ASIAEXAMPLE", "canary-secret/key+", "canary-session-token==/+", NOW + timedelta(hours=8))
VIRTUAL = Place("https", "store.s3.ap-southeast-2.amazonaws.com", "/", "ap-southeast-2")
BY_PATH = Place("http", "127.0.0.1:5000", "/store/", "us-east-1")
KEYS = ["datasets/10378-1-1/a.csv", "datasets/x/odd + name/é#100%25?.csv", "datasets/x/a//b*!'()~._-=&;:@$,", "x/"]
PLACES = pytest.mark.parametrize("place", [VIRTUAL, BY_PATH], ids=["virtual", "path"])


@pytest.fixture
def botocore(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its signers, at a moment of ours."""
    auth = pytest.importorskip("botocore.auth")
    monkeypatch.setattr(auth, "get_current_datetime", lambda *_, **__: NOW.replace(tzinfo=None))
    return auth


def theirs() -> Any:
    from botocore.credentials import Credentials as Theirs  # type: ignore[import-untyped] # it has no types

    return Theirs(CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key, CREDENTIALS.session_token)


@PLACES
@pytest.mark.parametrize("prefix", KEYS)
def test_a_list_is_signed_as_botocore_signs_it(botocore: Any, place: Place, prefix: str) -> None:
    from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped] # it has no types

    query = canonical([("list-type", "2"), ("prefix", prefix), ("continuation-token", "1/+=é")])
    request = AWSRequest("GET", f"{place.scheme}://{place.authority}{place.base}?{query}")
    botocore.S3SigV4Auth(theirs(), "s3", place.region).add_auth(request)

    ours = signed_fields(CREDENTIALS, place, place.base, query, NOW.timestamp())

    assert (first(ours, b"authorization") or b"").decode() == request.headers["Authorization"]
    assert (first(ours, b"x-amz-date") or b"").decode() == request.headers["X-Amz-Date"]


@PLACES
@pytest.mark.parametrize("key", KEYS)
def test_a_link_is_signed_as_botocore_signs_it(botocore: Any, place: Place, key: str) -> None:
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", f"{place.scheme}://{place.authority}{place.path(key)}")
    botocore.S3SigV4QueryAuth(theirs(), "s3", place.region, expires=3600).add_auth(request)

    ours = signed_link(CREDENTIALS, place, key, NOW.timestamp(), 3600)

    assert urlsplit(ours)._replace(query="") == urlsplit(request.url)._replace(query="")
    assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(request.url).query)


def test_credentials_are_shy() -> None:
    assert "canary" not in repr(CREDENTIALS)
