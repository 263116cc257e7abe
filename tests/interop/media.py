"""Publishers and listeners over a media WebSocket on the `websockets` library, written from docs/asyncapi.json, not from
the relay."""

import asyncio
import contextlib
import json
import struct
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PROTOCOL = "relay.media.v1"
FRAME_SECONDS = 0.02
TICKS = 960


def payload(position: int) -> bytes:
    """What frame number so and so holds: an Opus TOC byte and bytes that no other frame has."""
    return b"\xf8" + position.to_bytes(8, "big") + bytes([position % 251]) * (position % 40)


def written(position: int) -> bytes:
    """A frame with a capture time and an audio level."""
    return struct.pack(">BBQQQB", 1, 2 | 8, position, position * TICKS, (1 << 40) + position, 0x80 | 30) + payload(position)


def read(message: bytes) -> tuple[int, bool]:
    """The position of a frame and whether it was sent before; the rest must be as it was published."""
    kind, flags, position, ticks = struct.unpack_from(">BBQQ", message)
    assert kind == 1 and ticks == position * TICKS, message.hex()
    assert flags & ~16 == 2 | 8, f"{flags:#x}"
    captured, level = struct.unpack_from(">QB", message, 18)
    assert (captured, level) == ((1 << 40) + position, 0x80 | 30), message.hex()
    assert message[27:] == payload(position), message.hex()
    return position, bool(flags & 16)


@dataclass
class Watched:
    """Somebody who says when there is something new: nobody has to ask again and again."""

    news: asyncio.Event = field(default_factory=asyncio.Event, kw_only=True)

    async def until(self, holds) -> None:
        """Waits until something holds; the caller's deadline ends it."""
        while not holds():
            self.news.clear()
            await self.news.wait()


@dataclass
class Listener(Watched):
    """One socket after another: the positions that came on them, and what was told."""

    url: str
    positions: list[int] = field(default_factory=list)
    told: list[dict] = field(default_factory=list)
    ticket: str | None = None
    leaving: bool = False

    async def listen(self, by: str = "ticket") -> None:
        """Connects: from now on, or where the last socket was, by its ticket or by the next position."""
        self.socket = await connect(self.url, subprotocols=[PROTOCOL])
        assert self.socket.subprotocol == PROTOCOL
        self.leaving = False
        hello: dict = {}
        if self.ticket and by == "ticket":
            hello = {"ticket": self.ticket}
        if self.positions and by == "from":
            hello = {"from": self.positions[-1] + 1}
        await self.socket.send(json.dumps({"t": "hello", "d": hello}))
        welcome = json.loads(await self.socket.recv())
        assert welcome["t"] == "welcome", welcome
        self.ticket = welcome["d"]["ticket"]
        self.task = asyncio.create_task(self.hear())

    async def hear(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.socket:
                if isinstance(message, str):
                    self.told.append(json.loads(message))
                    continue
                if self.leaving:
                    continue
                self.positions.append(read(message)[0])
                self.news.set()
                if self.positions[-1] % 10 == 0:
                    await self.acknowledge()
        self.news.set()

    async def acknowledge(self) -> None:
        await self.socket.send(json.dumps({"t": "ack", "d": {"position": self.positions[-1]}}))

    async def leave(self) -> None:
        """What was heard is acknowledged, and nothing more is taken: it comes again. Then the socket is gone."""
        self.leaving = True
        await self.acknowledge()
        await self.socket.close()
        await self.task

    async def heard(self, position: int) -> None:
        """Waits for a position."""

        def there() -> bool:
            come = bool(self.positions) and self.positions[-1] >= position
            assert come or self.socket.close_code is None, f"closed with {self.socket.close_code} after {self.positions[-1:]}"
            return come

        await self.until(there)


@dataclass
class Publisher(Watched):
    """Speaks at the usual rate and keeps what is not acknowledged; on a new socket it sends that again."""

    url: str
    next: int = 0
    safe: int = 0
    ticket: str | None = None
    socket: object = None

    async def connect(self) -> None:
        socket = await connect(self.url, subprotocols=[PROTOCOL])
        hello = {"ticket": self.ticket} if self.ticket else {}
        await socket.send(json.dumps({"t": "hello", "d": hello}))
        welcome = json.loads(await socket.recv())
        assert welcome["t"] == "welcome", welcome
        self.ticket = welcome["d"]["ticket"]
        missing = welcome["d"]["position"]
        assert self.safe <= missing <= self.next, (self.safe, missing, self.next)
        for position in range(missing, self.next):
            await socket.send(written(position))
        self.socket, self.task = socket, asyncio.create_task(self.hear(socket))

    async def hear(self, socket) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                told = json.loads(message)
                if told["t"] == "ack":
                    assert told["d"]["recv"] == told["d"]["safe"] > self.safe, told
                    self.safe = told["d"]["safe"]
                    self.news.set()

    async def drop(self) -> None:
        """The socket is gone; the speaker speaks on."""
        socket, self.socket = self.socket, None
        await socket.close()
        await self.task

    async def speak(self, frames: int) -> None:
        """In real time, whether or not there is a socket."""
        clock = asyncio.get_running_loop().time
        start = clock()
        for index in range(frames):
            await asyncio.sleep(max(0.0, start + index * FRAME_SECONDS - clock()))
            position, self.next = self.next, self.next + 1
            self.news.set()
            if self.socket is not None:
                with contextlib.suppress(ConnectionClosed):
                    await self.socket.send(written(position))

    async def acknowledged(self) -> None:
        await self.until(lambda: self.safe >= self.next)
