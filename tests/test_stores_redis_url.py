import pytest

from proxy.stores.redis_url import parse


@pytest.mark.parametrize(
    ("text", "shown", "is_clear", "has_password"),
    [
        ("rediss://ada:canary@redis.example.org:6380/2", "rediss://redis.example.org:6380", False, True),
        ("redis://localhost", "redis://localhost:6379", False, False),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379", False, False),
        ("redis://[::1]:6379", "redis://[::1]:6379", False, False),
        ("redis://redis:6379", "redis://redis:6379", True, False),
        ("unix:///run/redis/redis.sock?db=3", "unix:///run/redis/redis.sock", False, False),
        ("unix://ada:canary@/run/redis.sock", "unix:///run/redis.sock", False, True),
    ],
)
def test_url_is_shown_without_its_secrets(text: str, shown: str, is_clear: bool, has_password: bool) -> None:
    url = parse(text)

    assert (url.shown, url.is_clear, url.has_password) == (shown, is_clear, has_password)
    assert "canary" not in repr(url)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost:6379", "must be rediss://"),
        ("http://localhost", "must be rediss://"),
        ("redis://[::1", "must be rediss://"),
        ("redis://", "must name a host"),
        ("unix://", "must name the socket"),
        ("redis://localhost:port", "must have a port"),
        ("redis://localhost/tokens", "no path but the number"),
        ("rediss://host?ssl_cert_reqs=none", "no parameter but db"),
        ("rediss://host?ssl_check_hostname=false", "no parameter but db"),
        ("unix:///run/redis.sock?password=canary", "no parameter but db"),
    ],
)
def test_url_that_is_refused(text: str, why: str) -> None:
    """Among them what would switch off the verification of certificates, or our own time-outs."""
    with pytest.raises(ValueError, match=why) as refused:
        parse(text)
    assert "canary" not in str(refused.value)
