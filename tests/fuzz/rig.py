"""A real listener and relay in a thread, between raw bytes and two strict upstreams, and the verdict on both."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field

from proxy.upstreams import Upstream
from tests.fuzz.strict import Message, Reader, Violation, meant
from tests.journeys.house import FixedSource, Running, running, token_set
from tests.poll import eventually

TOKENS = {"/a": b"canary-token-of-upstream-a", "/b": b"canary-token-of-upstream-b"}
QUIET_SECONDS = 0.003
"""How long a caller stays when all is answered. What comes later is noticed before the next conversation."""
PATIENCE_SECONDS = 10.0


@dataclass
class Strict:
    """An upstream that reads strictly, keeps what it read, and answers each request with its number."""

    mount: str
    records: list[Message] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unfinished: int = 0
    """Connections on which a part of a request came."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strict, is_begun = Reader(), False
        try:
            while data := await reader.read(1 << 16):
                strict.data += data
                while message := strict.request():
                    self.records.append(message)
                    number = b"%d" % (len(self.records) - 1)
                    length = len(number) if message.start[0] != b"HEAD" else 0
                    writer.write(b"HTTP/1.1 200 OK\r\nX-Seen: %s\r\nContent-Length: %d\r\n\r\n" % (number, length))
                    writer.write(number[:length])
                if is_begun != bool(strict.data):
                    is_begun = bool(strict.data)
                    self.unfinished += 1 if is_begun else -1
        except Violation as error:
            self.faults.append(str(error))
        except ConnectionError:
            pass
        finally:
            self.unfinished -= is_begun
            writer.close()


class Caller(asyncio.Protocol):
    """The caller's end; it keeps what came even if a reset follows."""

    def __init__(self) -> None:
        self.received = b""
        self.is_over = False
        self._something = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._something.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.is_over = True
        self._something.set()

    async def news(self, seconds: float) -> None:
        """Wait for bytes or the end; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._something.wait()
        self._something.clear()


class Astray(AssertionError):
    """The law was broken."""


@dataclass
class Rig:
    """What conversations are held with."""

    loop: asyncio.AbstractEventLoop
    proxy: Running = field(repr=False)
    upstreams: dict[str, Strict] = field(repr=False)
    unanswered: deque[Message] = field(default_factory=lambda: deque(maxlen=200), repr=False)
    """What was meant in earlier conversations and may still arrive, because the caller left or was cut off."""
    judged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    """How many records of each upstream are accounted for."""

    def talk(self, pieces: Sequence[bytes], *, leaves: bool = False) -> list[int]:
        """Send `pieces` one after the other on one connection and return the statuses of the answers.

        A caller who `leaves` does not wait for them.
        Raises Astray if an upstream saw anything else than what was meant, in whatever way the caller was answered.
        """
        done: Future[list[int]] = asyncio.run_coroutine_threadsafe(self._talk(pieces, leaves=leaves), self.loop)
        return done.result(PATIENCE_SECONDS * 3)

    async def _talk(self, pieces: Sequence[bytes], *, leaves: bool) -> list[int]:
        wanted = meant(b"".join(pieces))
        methods = [one.start[0] for one in wanted.requests]
        received = await self._received(pieces, methods, leaves=leaves)
        await eventually(
            lambda: not any(one.unfinished for one in self.upstreams.values()),
            PATIENCE_SECONDS,
            every=0.002,
            what="the end of what was begun upstream",
        )
        return self._judged(wanted.requests, received)

    async def _received(self, pieces: Sequence[bytes], methods: Sequence[bytes], *, leaves: bool) -> bytes:
        """Return what comes back until all is answered, the proxy closes, or nothing moves any more."""
        transport, caller = await self.loop.create_connection(Caller, "127.0.0.1", self.proxy.port)
        try:
            for piece in pieces:
                if caller.is_over:
                    break
                transport.write(piece)
                for _ in range(3):
                    await asyncio.sleep(0)  # noqa: TID251 - so that pieces arrive apart
            if leaves:
                return b""
            while not caller.is_over and not is_answered(caller.received, methods):
                await caller.news(PATIENCE_SECONDS)
            with contextlib.suppress(TimeoutError):
                while not caller.is_over:
                    await caller.news(QUIET_SECONDS)
        finally:
            transport.abort()
        return caller.received

    def _judged(self, wanted: Sequence[Message], received: bytes) -> list[int]:
        """Return the statuses of the answers; raises Astray."""
        new = {
            mount: dict(enumerate(one.records[self.judged[mount] :], self.judged[mount]))
            for mount, one in self.upstreams.items()
        }
        for mount, records in new.items():
            self.judged[mount] += len(records)
        for one in self.upstreams.values():
            if one.faults:
                raise Astray(f"{one.mount} was sent what is not HTTP: {one.faults}")
        said = answers(received, [one.start[0] for one in wanted])
        for index, answer in enumerate(said):
            if not (seen := answer.values(b"x-seen")):
                continue  # refused
            if index >= len(wanted):
                raise Astray(f"an answer to what nobody asked: {answer}")
            mount = mount_of(wanted[index])
            record = new.get(mount, {}).pop(int(seen[0]), None)
            if record is None:
                raise Astray(f"an answer from elsewhere: {answer} to {wanted[index]}")
            if not is_same(wanted[index], record, mount):
                raise Astray(f"{mount} saw\n  {record}\nand what was meant is\n  {wanted[index]}")
        self.unanswered.extend(wanted[len(said) :])
        for mount, records in new.items():
            for record in records.values():
                self._explain(record, mount)
        return [int(one.start[0]) for one in said]

    def _explain(self, record: Message, mount: str) -> None:
        """Account for a request that was seen, but of which no answer came back."""
        for one in self.unanswered:
            if mount_of(one) == mount and is_same(one, record, mount):
                self.unanswered.remove(one)
                return
        raise Astray(f"{mount} saw what nobody meant: {record}")

    def finish(self) -> None:
        """Judge what came behind the last conversation."""
        self._judged((), b"")


def is_same(one: Message, record: Message, mount: str) -> bool:
    """Return whether an upstream's record is what a caller meant, as the law lets it arrive."""
    named = {option.strip().lower() for value in one.values(b"connection") for option in value.split(b",")}
    hosts = record.values(b"host")
    return (
        record.start == (one.start[0], below(mount, one.start[1]), b"1.1")
        and record.body == one.body
        and record.values(b"authorization") == [b"Bearer " + TOKENS[mount]]
        and len(hosts) == 1
        and hosts[0].startswith(b"127.0.0.1:")
        and own_fields(record) == [(name, value) for name, value in own_fields(one) if name not in named]
    )


def own_fields(message: Message) -> list[tuple[bytes, bytes]]:
    """Return the fields that the law lets pass, of those that are made up here."""
    return [(name, value) for name, value in message.fields if name.startswith(b"x-own-") and b"_" not in name]


def origin_form(target: bytes) -> bytes:
    """Return the path and query of a target in origin-form or absolute-form."""
    if target[:7].lower() == b"http://":
        rest = target[7:]
        start = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        return rest[start:]
    return target


def below(mount: str, target: bytes) -> bytes:
    """Return what the upstream of `mount` is asked for."""
    path, mark, query = origin_form(target)[len(mount) :].partition(b"?")
    return (path or b"/") + mark + query


def mount_of(message: Message) -> str:
    path = origin_form(message.start[1]).partition(b"?")[0]
    return next((mount for mount in TOKENS if path == mount.encode() or path.startswith(mount.encode() + b"/")), "")


def answers(received: bytes, methods: Sequence[bytes]) -> list[Message]:
    """Read what the proxy said; raises Astray if it is not HTTP."""
    reader, found = Reader(received), list[Message]()
    try:
        while reader.data:
            method = methods[len(found)] if len(found) < len(methods) else b"GET"
            answer = reader.answer(method)
            if answer is None:
                break
            found.append(answer)
    except Violation as error:
        raise Astray(f"the caller was sent what is not HTTP: {error} in {received[:500]!r}") from error
    return found


def is_answered(received: bytes, methods: Sequence[bytes]) -> bool:
    """Return whether nothing more is to be waited for."""
    said = answers(received, methods)
    return len(said) >= len(methods) or any(one.is_last for one in said)


@contextmanager
def rig() -> Iterator[Rig]:
    """Run everything in a thread of its own until the context ends."""
    started: Future[tuple[Rig, asyncio.Event]] = Future()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            strict = {mount: Strict(mount) for mount in TOKENS}
            upstreams, sources = [], {}
            for mount, one in strict.items():
                server = await stack.enter_async_context(await asyncio.start_server(one, "127.0.0.1", 0))
                name, port = mount[1:], server.sockets[0].getsockname()[1]
                upstreams.append(Upstream(name, "http", "127.0.0.1", port, mount=mount, identity=name))
                sources[name] = FixedSource(token_set(TOKENS[mount].decode()))
            proxy = await stack.enter_async_context(running(upstreams, sources=sources))
            over = asyncio.Event()
            started.set_result((Rig(asyncio.get_running_loop(), proxy, strict), over))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="fuzzed proxy")
    thread.start()
    there, over = started.result(30)
    try:
        yield there
        there.finish()
    finally:
        there.loop.call_soon_threadsafe(over.set)
        thread.join()
