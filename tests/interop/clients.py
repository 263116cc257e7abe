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


class Program:
    """A client in a process of its own; its output is in the message if it fails."""

    def __init__(self, *command: object):
        self.command = [str(part) for part in command]

    async def __aenter__(self) -> "Program":
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
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

    async def says(self, word: str, seconds: float) -> None:
        """Waits for a line that holds the word."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(
                lambda: any(word in line for line in self.lines) or self.process.stdout.at_eof()
            )
        assert any(word in line for line in self.lines), self.told()

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


async def listening(kind: str, relay: Relay, session: Session, seconds: int, folder: Path) -> np.ndarray:
    """Listens for so long, and answers with what was heard."""
    url = session.whep["en"]
    if kind == "aiortc":
        listener = await Listener(url).tune()
        await listener.hear(packets=seconds * 50, seconds=seconds + SPARE_SECONDS)
        await listener.leave()
        return listener.recording()
    out = folder / f"{kind}.{'ogg' if kind == 'relayd' else 'wav'}"
    commands = {
        "chromium": ["node", "chromium.mjs", "listen", "--page", session.pages["listen"], "--seconds", seconds,
                     "--wav", out, "--stats", folder / "listener.json"],
        "wrtc": ["node", "wrtc.mjs", "listen", "--url", url, "--seconds", seconds, "--wav", out],
        "relayd": [relay.binary, "listen", url, "--seconds", seconds, "--out", out],
    }
    async with Program(*commands[kind]) as program:
        await program.ends(seconds + SPARE_SECONDS)
    return decode(out)


def read_stats(path: Path) -> dict:
    """What a browser counted."""
    return json.loads(path.read_text())
