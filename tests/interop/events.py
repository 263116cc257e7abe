"""A follower of a session's events on the `websockets` library, written from docs/asyncapi.json, not from the relay."""

import asyncio
import contextlib
import json

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PROTOCOL = "relay.v1+json"
# What is told of the connection, at times of its own.
BEATS = ("heartbeat", "heartbeatAck")


class Follower:
    """One socket after another: what was told is kept over all of them."""

    def __init__(self, url: str, token: str | None = None, leg: str | None = None):
        self.url, self.token, self.leg = url, token, leg
        self.frames: list[dict] = []
        self.close_code: int | None = None
        self.ticket: str | None = None
        self.news = asyncio.Condition()

    async def follow(self) -> "Follower":
        """Connects and says hello: with the ticket of the last time, if there was one."""
        self.socket = await connect(self.url, subprotocols=[PROTOCOL])
        assert self.socket.subprotocol == PROTOCOL
        if self.ticket:
            hello = {"resume": self.ticket, "seq": self.frames[-1]["seq"]}
        else:
            hello = {"token": self.token} if self.token else {}
        if self.leg:
            hello["leg"] = self.leg
        await self.say("hello", hello)
        self.tasks = [asyncio.create_task(self.read()), asyncio.create_task(self.beat())]
        return self

    async def say(self, name: str, data: dict) -> None:
        await self.socket.send(json.dumps({"t": name, "d": data}))

    async def read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self.socket:
                frame = json.loads(text)
                assert set(frame) == {"t", "seq", "ts", "d"}, frame
                async with self.news:
                    self.frames.append(frame)
                    if frame["t"] == "welcome":
                        self.ticket = frame["d"]["resume"]
                    self.news.notify_all()
        async with self.news:
            self.close_code = self.socket.close_code
            self.news.notify_all()

    async def beat(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(10)
                await self.say("heartbeat", {"seq": self.frames[-1]["seq"]} if self.frames else {})

    async def told(self, name: str, seconds: float, count: int = 1) -> dict:
        """Waits until an event was told so often; answers with the last of them."""

        def found() -> list[dict]:
            return [frame for frame in self.frames if frame["t"] == name]

        try:
            async with asyncio.timeout(seconds), self.news:
                await self.news.wait_for(lambda: len(found()) >= count)
        except TimeoutError:
            raise AssertionError(f"{name} was told {len(found())} times, not {count}: {self.names()}") from None
        return found()[count - 1]

    async def closed(self, seconds: float) -> int:
        """Waits until the relay closes; answers with the code."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: self.close_code is not None)
        return self.close_code

    async def vanish(self) -> None:
        """The network goes away: nothing is said any more."""
        for task in self.tasks:
            task.cancel()
        self.socket.transport.abort()

    def names(self) -> list[str]:
        return [frame["t"] for frame in self.frames if frame["t"] not in BEATS]

    def log(self) -> list[dict]:
        """What was told, without what differs from run to run; each number is held to be one more or later."""
        last = 0
        kept = []
        for frame in self.frames:
            assert frame["seq"] >= last, f"{frame} after {last}"
            last = frame["seq"]
            if frame["t"] not in BEATS:
                kept.append({"t": frame["t"], "d": {name: steady(name, value) for name, value in frame["d"].items()}})
        return kept


VARYING = {"sessionId": "SESSION", "node": "NODE", "epoch": 0, "resume": "TICKET", "seq": 0, "expiresAt": 0}


def steady(name: str, value):
    """A value as it is in every run."""
    return VARYING.get(name, value)
