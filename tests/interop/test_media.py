"""Media over WebSockets with clients that others wrote: Python's `websockets` and node's `ws`, in every pairing.

Each frame is heard exactly once and in order, whoever's socket is closed on the way, for up to two seconds.
"""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from media import Listener, Publisher
from relay import Relay, until

HERE = Path(__file__).resolve().parent
FRAMES = 200
AWAY = 100  # frames: 2 s


def places(relay: Relay) -> tuple[str, str]:
    """Where to publish and where to listen, in a session of its own."""
    base = f"ws://127.0.0.1:{relay.port}/v1/sessions/{relay.session('en').id}"
    return f"{base}/publish/en", f"{base}/listen/en"


def node(*arguments: object) -> subprocess.Popen:
    command = ["node", "media.mjs", *map(str, arguments)]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def said(program: subprocess.Popen) -> dict:
    """What a program of node's has printed at its end."""
    out, errors = await asyncio.to_thread(program.communicate, timeout=60)
    assert program.returncode == 0, errors
    return json.loads(out)


@pytest.mark.parametrize("by", ["ticket", "from"])
def test_a_listener_that_is_away_for_two_seconds_misses_nothing(relay: Relay, within, by: str):
    async def run():
        publish, listen = places(relay)
        publisher, listener, other = Publisher(publish), Listener(listen), Listener(listen)
        await asyncio.gather(publisher.connect(), listener.listen(), other.listen())
        speaking = asyncio.create_task(publisher.speak(FRAMES + AWAY))
        await listener.heard(50)
        await listener.leave()
        await publisher.until(lambda: publisher.next >= listener.positions[-1] + AWAY)
        await listener.listen(by)
        await speaking
        await asyncio.gather(listener.heard(publisher.next - 1), other.heard(publisher.next - 1))
        for heard in (listener, other):
            assert heard.positions == list(range(FRAMES + AWAY))
            assert not [told for told in heard.told if told["t"] == "framesLost"]

    within(run(), 60)


def test_a_publisher_that_is_away_for_two_seconds_loses_nothing(relay: Relay, within):
    async def run():
        publish, listen = places(relay)
        publisher, listener = Publisher(publish), Listener(listen)
        await asyncio.gather(publisher.connect(), listener.listen())
        await publisher.speak(50)
        await publisher.drop()
        await publisher.speak(AWAY)
        await publisher.connect()
        await publisher.speak(50)
        await listener.heard(publisher.next - 1)
        await publisher.acknowledged()
        assert listener.positions == list(range(FRAMES))

    within(run(), 60)


def test_nodes_listener_hears_pythons_publisher_and_both_come_and_go(relay: Relay, within):
    async def run():
        publish, listen = places(relay)
        publisher = Publisher(publish)
        listener = node("listen", "--url", listen, "--last", FRAMES - 1, "--drops", 2)
        await asyncio.to_thread(lambda: wait_for_listeners(relay, listen))
        await publisher.connect()
        await publisher.speak(60)
        await publisher.drop()
        await publisher.speak(40)
        await publisher.connect()
        await publisher.speak(FRAMES - 100)
        heard = await said(listener)
        assert heard == {"positions": list(range(FRAMES)), "lost": 0}

    within(run(), 90)


def test_pythons_listener_hears_nodes_publisher(relay: Relay, within):
    async def run():
        publish, listen = places(relay)
        listener = Listener(listen)
        await listener.listen()
        publisher = node("publish", "--url", publish, "--frames", FRAMES, "--drops", 2)
        assert await said(publisher) == {"sent": FRAMES, "safe": FRAMES}
        await listener.heard(FRAMES - 1)
        assert listener.positions == list(range(FRAMES))

    within(run(), 90)


def wait_for_listeners(relay: Relay, listen: str) -> None:
    """Waits for the one listener of a session."""
    session = listen.split("/")[5]
    until(lambda: relay.call("GET", f"/v1/sessions/{session}")["listeners"] == 1, 20, "the listener")
