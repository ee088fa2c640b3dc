"""What becomes of a request, by its head alone: a table, no socket."""

import pytest

from proxy.decision import Control, Decision, Empty, Onward, Refusal, Rules, Within
from proxy.errors import BadRequest, CallerRefused, KeyRequired, LoopDetected, NotAllowed, NoUpstream
from proxy.guard import Arrival, Guard
from proxy.headers import Fields
from proxy.upstreams import Mounts, Upstream

DATA = Upstream("data", "https", "data.example.org", 443, mount="/data", deny=("/secret",))
ALONE = Upstream("alone", "https", "alone.example.org", 443, mount="/alone")
HOST: Fields = [(b"host", b"localhost:8400")]
OWN_PORT = 8411


class Datasets:
    """A face of ours below a mount."""

    mount = b"/data/sets"


def decided(
    target: bytes, *fields: tuple[bytes, bytes], method: str = "GET", port: int = 8400, guard: Guard | None = None
) -> Decision:
    rules = Rules(guard or Guard(), Mounts([DATA, ALONE]), b"us", (Datasets(),))
    rules.own_ports = {OWN_PORT: ALONE}
    said = list(fields) if any(name == b"host" for name, _ in fields) else [*HOST, *fields]
    if port != 8400:
        said[0] = (b"host", b"localhost:%d" % port)
    return rules.decide(method, target, said, Arrival(("127.0.0.1", port), "127.0.0.1"))


def refusal(decision: Decision) -> type[Exception]:
    assert isinstance(decision, Refusal), decision
    return type(decision.error)


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/data/sets", b""), (b"/data/sets/", b"/"), (b"/data/sets/a/b?x=y", b"/a/b")],
)
def test_a_face_of_ours_stands_before_the_mount_that_it_is_in(target: bytes, path: bytes) -> None:
    decision = decided(target)

    assert isinstance(decision, Within)
    assert (decision.mount, decision.path) == (b"/data/sets", path)


@pytest.mark.parametrize("target", [b"/data/setsx", b"/data/sets-evil/a", b"/data/sets%2Fa", b"/data/Sets/a", b"/data"])
def test_a13_h33_what_only_resembles_the_place_of_a_face_is_the_upstreams(target: bytes) -> None:
    """On a segment boundary, as mounts are."""
    decision = decided(target)

    assert isinstance(decision, Onward)
    assert decision.match.upstream is DATA
    assert decision.match.target == (target.removeprefix(b"/data") or b"/")


@pytest.mark.parametrize("target", [b"/data/sets/a", b"/data/x", b"/-/", b"/", b"/-/metrics"])
def test_s26_on_its_own_port_an_upstream_is_alone(target: bytes) -> None:
    """No mount, no face and no page of ours is reached there."""
    decision = decided(target, port=OWN_PORT)

    assert isinstance(decision, Onward)
    assert (decision.match.upstream, decision.match.target) == (ALONE, target)


@pytest.mark.parametrize("target", [b"/", b"/-/", b"/-", b"/-/live?x"])
def test_our_pages_are_the_control_planes(target: bytes) -> None:
    assert isinstance(decided(target), Control)


@pytest.mark.parametrize("target", [b"/-x", b"/dat", b"/datax", b"/nowhere"])
def test_what_nobody_holds_is_refused(target: bytes) -> None:
    assert refusal(decided(target)) is NoUpstream


@pytest.mark.parametrize("target", [b"/data/x", b"/data/sets/a", b"/-/", b"/nowhere"])
@pytest.mark.parametrize(
    ("field", "error"),
    [
        ((b"host", b"evil.example"), CallerRefused),
        ((b"origin", b"null"), CallerRefused),
        ((b"sec-fetch-site", b"same-site"), CallerRefused),
        ((b"via", b"1.1 other, 1.1 us"), LoopDetected),
    ],
)
def test_a1_a2_a46_strangers_and_circles_are_refused_whatever_they_ask_for(
    target: bytes, field: tuple[bytes, bytes], error: type[Exception]
) -> None:
    """S1-S3, H65: one gate for every path."""
    assert refusal(decided(target, field)) is error


@pytest.mark.parametrize("target", [b"/data/x", b"/data/sets/a", b"/-/", b"/nowhere", b"*"])
def test_a6_s12_without_the_key_nothing_is_told(target: bytes) -> None:
    """Not even what is mounted."""
    assert refusal(decided(target, method="OPTIONS", guard=Guard(api_key="s3cret"))) is KeyRequired


@pytest.mark.parametrize("query", [b"access_token=x", b"a=b&access_token=x", b"a;ACCESS%5Ftoken=x", b"access_token"])
def test_s24_a_token_in_the_url_is_refused(query: bytes) -> None:
    assert refusal(decided(b"/data/x?" + query)) is BadRequest


def test_the_policy_of_a_mount_is_judged() -> None:
    assert refusal(decided(b"/data/secret/x")) is NotAllowed
    assert refusal(decided(b"/data/x", method="TRACE")) is NotAllowed


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND", "LOCK"])
def test_h22_what_is_asked_first_is_answered_here(method: str) -> None:
    assert refusal(decided(b"/data/x", method=method)) is NotAllowed
    everything = decided(b"*", method="OPTIONS")
    assert isinstance(everything, Empty)
    assert everything.status == 200


def test_a3_a4_a_preflight_is_answered_here_and_for_a_listed_origin_alone() -> None:
    """S4."""
    listed = Guard(allowed_origins=frozenset({"https://app.example"}))
    asks = (b"access-control-request-method", b"POST")
    granted = decided(b"/data/x", (b"origin", b"https://app.example"), asks, method="OPTIONS", guard=listed)

    assert isinstance(granted, Empty)
    assert (granted.status, dict(granted.fields)[b"access-control-allow-origin"]) == (204, b"https://app.example")
    assert b"access-control-allow-private-network" not in dict(granted.fields)
    stranger = decided(b"/data/x", (b"origin", b"https://evil.example"), asks, method="OPTIONS", guard=listed)
    assert refusal(stranger) is CallerRefused
