from tests.journeys.house import FixedSource, answering, raw_upstream, running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/csv\r\n\r\nhello"


async def test_a_get_reaches_the_upstream_with_our_token_and_the_raw_target() -> None:
    async with raw_upstream(answering(OK)) as there:
        async with running([there.upstream()], sources={"me": FixedSource()}) as proxy:
            raw = await proxy.exchange(
                b"GET /data/a%%2Fb?x=%%2f&y=a+b;c&z=%%zz| HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n"
                % proxy.port
            )
    print(raw.decode(), there.heads[0].decode(), proxy.events)
    assert raw.endswith(b"\r\n\r\nhello")
    assert there.heads[0].startswith(b"GET /a%2Fb?x=%2f&y=a+b;c&z=%zz| HTTP/1.1\r\n")
