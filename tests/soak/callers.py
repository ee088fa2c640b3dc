"""The tools that use the proxy: each does one thing after the other, as the seed says, and tells what it got."""

import asyncio
import functools
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from proxy.clock import Clock
from proxy.demo.faults import seeded_bytes
from tests.soak.checks import Outcome, Seen
from tests.soak.services import BROKEN_OFF

PAUSE_SECONDS = (0.2, 1.2)
TIMEOUT_SECONDS = 60.0
SMALL, MEDIUM = 4_000, 2_000_000
DOWNLOADS = (2_000, 64_000, 300_000, 1_000_000)
SEEDS = range(4)

CSV = "/demo/coral-cover.csv"
SDMX = "/rest/data/TOURISM,DF_ARRIVALS,1.0/A.AU.HOL"
FORBIDDEN = "/registry/items/fetch-dataset?handle_id=10378.1/1004"

ACTIONS: dict[str, int] = {
    "read": 40,
    "download": 18,
    "small upload": 14,
    "medium upload": 4,
    "import": 4,
    "broken-off download": 6,
    "broken-off upload": 4,
    "slow read": 4,
    "forbidden": 6,
}
"""How often each of a caller's actions comes, in shares."""


class _LeftError(Exception):
    """A caller breaks off."""


class _WrongError(Exception):
    """An answer is complete and not what it must be."""


@dataclass
class Caller:
    """One tool with its own connections, at the proxy's `base_url`."""

    number: int
    base_url: str
    seed: int
    clock: Clock
    note: Callable[[Outcome], None]

    def __post_init__(self) -> None:
        self._randomness = random.Random(f"{self.seed} {self.number}")  # noqa: S311 - what a tool does next
        self._count = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until `stop` is set; what is under way then is finished."""
        actions: dict[str, Callable[[httpx2.AsyncClient, str], Awaitable[int]]] = {
            "read": self._read,
            "download": self._download,
            "small upload": functools.partial(self._upload, size=SMALL),
            "medium upload": functools.partial(self._upload, size=MEDIUM),
            "import": self._import,
            "broken-off download": self._break_off_download,
            "broken-off upload": self._break_off_upload,
            "slow read": self._read_slowly,
            "forbidden": self._read_what_is_forbidden,
        }
        async with client(self.base_url) as http:
            while not stop.is_set():
                await self.clock.sleep(self._randomness.uniform(*PAUSE_SECONDS))
                if stop.is_set():
                    return
                (action,) = self._randomness.choices([*ACTIONS], [*ACTIONS.values()])
                upstream = {"forbidden": "data", "import": "transfer"}.get(action)
                await self._do(action, upstream or self._randomness.choice(["data", "nsi", "transfer"]), actions, http)

    async def _do(self, action: str, upstream: str, actions: Any, http: httpx2.AsyncClient) -> None:
        started, seen, status, detail = self.clock.wall(), Seen.GOOD, 0, ""
        self._count += 1
        try:
            status = await actions[action](http, upstream)
        except _LeftError:
            seen = Seen.LEFT
        except _WrongError as wrong:
            seen, detail = Seen.CORRUPT, str(wrong)
        except _RefusedError as refused:
            status, detail = refused.status, refused.detail
            seen = Seen.AUTHENTICATION if status in (401, 403, 503) else Seen.BROKEN
        except httpx2.TransportError as error:
            seen, detail = Seen.BROKEN, f"{type(error).__name__}: {error}"
        detail = detail and f"caller {self.number}: {detail}"
        self.note(Outcome(action, upstream, seen, started, self.clock.wall(), status, detail))

    async def _read(self, http: httpx2.AsyncClient, upstream: str) -> int:
        if upstream == "transfer":
            answer = await http.get("/transfer/soak/bytes/2000?0")
        else:
            answer = await http.get(f"/{upstream}{CSV if upstream == 'data' else SDMX}")
        _expect(answer)
        return answer.status_code

    async def _download(self, http: httpx2.AsyncClient, upstream: str) -> int:
        size, seed = self._randomness.choice(DOWNLOADS), self._randomness.choice(SEEDS)
        answer = await http.get(self._bytes(upstream, size, seed))
        _expect(answer)
        if hashlib.sha256(answer.content).hexdigest() != digest(size, seed):
            raise _WrongError(f"{len(answer.content)} of {size} bytes")
        return answer.status_code

    async def _upload(self, http: httpx2.AsyncClient, upstream: str, *, size: int) -> int:
        size, seed = self._randomness.randint(1, size), self._randomness.choice(SEEDS)
        whole = b"".join(seeded_bytes(size, seed))
        fields = {"content-length": str(size)} if self._randomness.random() < 0.6 else {}
        answer = await http.request(
            self._randomness.choice(["POST", "PUT"]),
            f"/{upstream}/soak/upload/{self.number}-{self._count}",
            content=_pieces(whole),
            headers=fields,
        )
        _expect(answer)
        if answer.json() != {"sha256": hashlib.sha256(whole).hexdigest(), "size": size}:
            raise _WrongError(f"the upstream got {answer.text} of {size} bytes")
        return answer.status_code

    async def _import(self, http: httpx2.AsyncClient, _: str) -> int:
        file = b"DATAFLOW,FREQ,OBS_VALUE\n" + b"X:Y(1.0),A,1\n" * self._randomness.randint(1, 20_000)
        answer = await http.post(
            "/transfer/import/sdmxFile",
            data={"dataspace": "demo"},
            files={"file": ("data.csv", file, "text/csv")},
        )
        _expect(answer)
        if answer.json().get("success") is not True:
            raise _WrongError(answer.text[:200])
        return answer.status_code

    async def _break_off_download(self, http: httpx2.AsyncClient, upstream: str) -> int:
        size = 1_000_000
        async with http.stream("GET", self._bytes(upstream, size, 0)) as answer:
            await _expect_stream(answer)
            left = self._randomness.randrange(size)
            async for piece in answer.aiter_raw():
                left -= len(piece)
                if left <= 0:
                    raise _LeftError
        return answer.status_code

    async def _break_off_upload(self, http: httpx2.AsyncClient, upstream: str) -> int:
        size = self._randomness.randint(2, 500_000)
        whole = b"".join(seeded_bytes(size))

        async def half() -> AsyncIterator[bytes]:
            yield whole[: self._randomness.randrange(1, size)]
            raise _LeftError

        fields = {"content-length": str(size)} if self._randomness.random() < 0.5 else {}
        url = f"/{upstream}/soak/upload/{self.number}-{self._count}{BROKEN_OFF}"
        answer = await http.post(url, content=half(), headers=fields)
        _expect(answer)
        raise _WrongError("an upload that was broken off got an answer")

    async def _read_slowly(self, http: httpx2.AsyncClient, upstream: str) -> int:
        size, seed, got = 1_000_000, self._randomness.choice(SEEDS), hashlib.sha256()
        async with http.stream("GET", self._bytes(upstream, size, seed)) as answer:
            await _expect_stream(answer)
            async for piece in answer.aiter_raw(size // 20):
                got.update(piece)
                # Not so slowly that the proxy, which is done once the kernel has it all, closes the idle connection in
                # the moment of the next request: no client that reuses connections is safe from that.
                await self.clock.sleep(self._randomness.uniform(0.02, 0.16))
        if got.hexdigest() != digest(size, seed):
            raise _WrongError("a slow read was not whole")
        return answer.status_code

    async def _read_what_is_forbidden(self, http: httpx2.AsyncClient, upstream: str) -> int:
        """The upstream's 401 about permission is relayed, and no token is to blame."""
        answer = await http.get(f"/{upstream}{FORBIDDEN}")
        if answer.status_code == 401 and "sufficient permissions" in answer.text:
            return answer.status_code
        _expect(answer)
        raise _WrongError("what is forbidden was read")

    def _bytes(self, upstream: str, size: int, seed: int) -> str:
        return f"/{upstream}/soak/bytes/{size}?{seed}" + self._randomness.choice(["", "&chunked"])


def client(base_url: str) -> httpx2.AsyncClient:
    """Return a client without the second of work that reading certificates is for fifty of them."""
    return httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=TIMEOUT_SECONDS, verify=_NO_TLS)


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status)
        self.status = status
        self.detail = detail


def _expect(answer: httpx2.Response) -> None:
    if answer.status_code != 200:
        said = answer.headers.get("proxy-status", "")
        raise _RefusedError(answer.status_code, f"{answer.text[:200]} {said}")


async def _expect_stream(answer: httpx2.Response) -> None:
    if answer.status_code != 200:
        await answer.aread()
        _expect(answer)


async def _pieces(whole: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(whole), 64_000):
        yield whole[start : start + 64_000]


@functools.cache
def digest(size: int, seed: int) -> str:
    """Return the hash of `seeded_bytes`."""
    return hashlib.sha256(b"".join(seeded_bytes(size, seed))).hexdigest()
