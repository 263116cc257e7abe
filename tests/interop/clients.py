"""The four kinds of client, each as a publisher and as a listener, behind one pair of functions.

| kind | what it is |
|---|---|
| `chromium` | the relay's own pages in headless Chromium, driven by `chromium.mjs` |
| `aiortc` | the client of `whip.py`, in this process |
| `wrtc` | libwebrtc without a browser, `wrtc.mjs` |
| `relayd` | `relayd publish` and `relayd listen` |
"""

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio import decode
from relay import Relay, Session
from whip import Listener, Publisher

HERE = Path(__file__).resolve().parent
KINDS = ["chromium", "aiortc", "wrtc", "relayd"]
START_SECONDS = 30
# Browser and jitter buffers may take this long before the first sound.
SPARE_SECONDS = 45


@dataclass(frozen=True)
class Speech:
    """What publishers say."""

    ogg: Path
    wav: Path
    microphone: Path
    """The same several times over: the browser's fake microphone plays its file once."""


@dataclass(frozen=True)
class Heard:
    """What a listener took away."""

    recording: np.ndarray
    lost: int
    """Packets that it missed by their sequence numbers."""


class Program:
    """A client in a process of its own; its output is in the message if it fails."""

    def __init__(self, *command: object):
        self.command = [str(part) for part in command]

    async def __aenter__(self) -> "Program":
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=HERE,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.news = asyncio.Condition()
        self.reader = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_) -> None:
        # Whatever it started goes with it: a browser is many processes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self.reader.cancel()

    async def read(self) -> None:
        while line := await self.process.stdout.readline():
            async with self.news:
                self.lines.append(line.decode(errors="replace").rstrip())
                self.news.notify_all()
        async with self.news:
            self.news.notify_all()

    async def does(self, step: str, seconds: float) -> None:
        """Has a program that takes steps take one, and waits until it says that it is done."""
        word = json.dumps({"done": step.split()[0]}, separators=(",", ":"))
        times = sum(word in line for line in self.lines)
        self.process.stdin.write(f"{step}\n".encode())
        await self.process.stdin.drain()
        await self.says(word, seconds, times + 1)

    async def says(self, word: str, seconds: float, times: int = 1) -> None:
        """Waits for so many lines that hold the word."""

        def said() -> bool:
            return sum(word in line for line in self.lines) >= times

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self.news:
                await self.news.wait_for(lambda: said() or self.process.stdout.at_eof())
        assert said(), f"{word} was not said: {self.told()}"

    async def ends(self, seconds: float) -> None:
        """Waits for it to end by itself, without fault."""
        try:
            async with asyncio.timeout(seconds):
                code = await self.process.wait()
                await self.reader
        except TimeoutError:
            raise AssertionError(f"not done after {seconds} s: {self.told()}") from None
        assert code == 0, f"ended with {code}: {self.told()}"

    async def stop(self, seconds: float) -> None:
        """Asks it to end, and waits until it has."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await self.ends(seconds)

    def told(self) -> str:
        return " ".join(self.command) + "\n" + "\n".join(self.lines[-40:])


async def speaker_connected(relay: Relay, session: Session, wanted: bool = True) -> None:
    """Waits until the API says so."""
    async with asyncio.timeout(START_SECONDS):
        while (await asyncio.to_thread(relay.state, session))["speakerConnected"] != wanted:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.1)


@contextlib.asynccontextmanager
async def publishing(kind: str, relay: Relay, session: Session, speech: Speech, folder: Path):
    """Speaks the speech again and again while the block runs."""
    url = session.whip["en"]
    if kind == "aiortc":
        publisher = await Publisher(url).speak(speech.wav)
        yield
        await publisher.leave()
        return
    stats = folder / "speaker.json"
    commands = {
        "chromium": ["node", "chromium.mjs", "speak", "--page", session.pages["speak"], "--wav", speech.microphone,
                     "--seconds", 600, "--lead", 0, "--out", stats],
        "wrtc": ["node", "wrtc.mjs", "publish", "--url", url, "--wav", speech.wav],
        "relayd": [relay.binary, "publish", url, speech.ogg, "--loop"],
    }
    async with Program(*commands[kind]) as program:
        try:
            await speaker_connected(relay, session)
        except TimeoutError:
            raise AssertionError(f"the speaker did not come: {program.told()}") from None
        yield
        assert program.process.returncode is None, f"the speaker went away: {program.told()}"
        if kind == "chromium":
            return  # its time is not over; a closed browser is a speaker who closes the lid
        await program.stop(START_SECONDS)


async def listening_together(relay: Relay, session: Session, seconds: int, folder: Path) -> list[Heard]:
    """Listens with every kind of client at once, and answers with what each heard.

    The browser comes first and the others when it listens: two cores that start a browser starve whoever is listening.
    """
    listens = asyncio.Event()

    async def after_the_browser(kind: str) -> Heard:
        await listens.wait()
        return await listening(kind, relay, session, seconds, folder)

    browser = listening(KINDS[0], relay, session, seconds, folder, listens)
    return await asyncio.gather(browser, *(after_the_browser(kind) for kind in KINDS[1:]))


async def listening(
    kind: str, relay: Relay, session: Session, seconds: int, folder: Path, listens: asyncio.Event | None = None
) -> Heard:
    """Listens for so long, and answers with what was heard; a browser sets the event when it begins to."""
    url = session.whep["en"]
    if kind == "aiortc":
        listener = await Listener(url).tune()
        await listener.hear(packets=seconds * 50, seconds=seconds + SPARE_SECONDS)
        await listener.leave()
        return Heard(listener.recording(), listener.lost())
    out, stats = folder / f"{kind}.{'ogg' if kind == 'relayd' else 'wav'}", folder / "listener.json"
    commands = {
        "chromium": ["node", "chromium.mjs", "listen", "--page", session.pages["listen"], "--seconds", seconds,
                     "--wav", out, "--stats", stats],
        "wrtc": ["node", "wrtc.mjs", "listen", "--url", url, "--seconds", seconds, "--wav", out],
        "relayd": [relay.binary, "listen", url, "--seconds", seconds, "--out", out, "--json"],
    }
    async with Program(*commands[kind]) as program:
        if listens is not None:
            await program.says("listening", SPARE_SECONDS)
            listens.set()
        await program.ends(seconds + SPARE_SECONDS)
    if kind == "chromium":
        return Heard(decode(out), packets_lost(stats))
    counted = json.loads(program.lines[-1])
    return Heard(decode(out), counted["lost"] if kind == "relayd" else counted["packetsLost"])


def packets_lost(stats: Path) -> int:
    """What the browsers of a statistics file missed in all."""
    told = json.loads(stats.read_text())
    listeners = told if isinstance(told, list) else [told]
    inbound = [one for listener in listeners for one in listener["stats"] if one["type"] == "inbound-rtp"]
    assert len(inbound) == len(listeners), "a browser counted nothing"
    return sum(one["packetsLost"] for one in inbound)
