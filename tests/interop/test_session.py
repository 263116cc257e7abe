"""A whole session with tokens, scripted: everything that is done to it, and what each side is told of that.

Twenty anonymous listeners of three kinds, five of them there before the speaker; a speaker in a browser; two followers of
the events, whose logs must be those of `golden/`. `RELAY_GOLDEN=write` writes them anew.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
from pathlib import Path

import pytest

from clients import Program
from events import Follower
from relay import Relay
from whip import Listener

GOLDEN = Path(__file__).resolve().parent / "golden"
SECRET = "interop-secret-of-at-least-32-bytes"
# The speaker's first token, when its holder is warned, and how long after its end a newer one may still come.
LIFETIME, WARNING, GRACE = 90, 45, 2
STEP = 60


def token(subject: str, role: str, lifetime: int = 3600, **grants: object) -> str:
    """A token as any JWT library makes it (RFC 7515)."""

    def part(value: object) -> bytes:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {
        "iss": "interop",
        "sub": subject,
        "aud": "relay:default",
        "exp": int(time.time()) + lifetime,
        "relay": {"role": role} | grants,
    }
    message = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    return (message + b"." + part(hmac.digest(SECRET.encode(), message, hashlib.sha256))).decode()


@pytest.fixture
def guarded(relayd: Path, tmp_path: Path):
    """A relay that wants tokens."""
    settings = {
        "auth_mode": "token",
        "auth_secret": SECRET,
        "auth_warn_before": f"{WARNING}s",
        "auth_grace": f"{GRACE}s",
    }
    with Relay(relayd, tmp_path / "relayd.log", **settings) as running:
        yield running


async def listening(relay: Relay, url: str, programs: contextlib.AsyncExitStack, count: int) -> list[Program]:
    """So many `relayd listen`, connected; they stay until the relay ends it."""
    command = (relay.binary, "listen", url, "--json")
    return [await programs.enter_async_context(Program(*command)) for _ in range(count)]


def test_a_session_is_told_to_both_sides_as_it_goes(guarded: Relay, said, within):
    speaker, listener = within(whole_session(guarded, said), 400)
    assert speaker.close_code == listener.close_code == 4006
    # The warning comes by the clock, between other things: its place is held here, all other places by the golden log.
    warnings = [frame for frame in speaker.log() if frame["t"] == "connectionWarning"]
    names = speaker.names()
    assert len(warnings) == 1 and names.index("connectionWarning") < names.index("tokenRefreshed"), names
    assert warnings[0]["d"] == {"remainingMinutes": 1, "expiresAt": 0, "reason": "tokenExpiry"}
    compare("speaker", [frame for frame in speaker.log() if frame["t"] != "connectionWarning"])
    compare("listener", listener.log())


async def whole_session(relay: Relay, said) -> tuple[Follower, Follower]:
    first = token("ann", "speak", LIFETIME)
    started = time.monotonic()
    session = relay.session("en", "es", token=first, anonymousListeners=True)
    speaker = await Follower(session.events, first).follow()
    listener = await Follower(session.events).follow()
    joined = await listener.told("sessionJoined", STEP)
    assert joined["d"]["speakerConnected"] is False and joined["d"]["status"] == "created"
    url = session.whep["en"]
    async with contextlib.AsyncExitStack() as programs:
        browser = await programs.enter_async_context(Program(
            "node", "session.mjs", "--speak", f"{session.pages['speak']}#token={first}",
            "--listen", session.pages["listen"], "--wav", said.microphone,
        ))
        await browser.says("start", STEP)

        # Five are there before anybody speaks.
        own = await listening(relay, url, programs, 2)
        peers = [await Listener(url).tune() for _ in range(2)]
        await browser.does("early 1", STEP)
        await speaker.told("listenerJoined", STEP, count=5)
        assert [peer.packets for peer in peers] == [[], []]

        await browser.does("speak", STEP)
        assert (await listener.told("speakerReady", STEP))["d"] == {"language": "en"}
        await asyncio.gather(*(peer.hear(packets=100, seconds=STEP) for peer in peers))

        own += await listening(relay, url, programs, 5)
        peers += await asyncio.gather(*(Listener(url).tune() for _ in range(5)))
        await browser.does("late 5", 2 * STEP)
        await speaker.told("listenerJoined", STEP, count=20)
        await asyncio.gather(*(peer.hear(packets=100, seconds=STEP) for peer in peers))
        state = relay.call("GET", f"/v1/sessions/{session.id}")
        assert (state["status"], state["listeners"]) == ("active", 20)

        # The listener's network fails meanwhile; what it missed is told when it is back.
        await listener.vanish()
        await browser.does("pause", STEP)
        await speaker.told("sessionPaused", STEP)
        silent = await quiet(peers)
        await browser.does("resume", STEP)
        await speaker.told("sessionResumed", STEP)
        await listener.follow()
        await listener.told("sessionResumed", STEP)
        await asyncio.gather(*(peer.hear(packets=100, seconds=STEP) for peer in peers))
        assert all(peer.connection.connectionState == "connected" for peer in peers), silent

        await browser.does("language de", STEP)
        assert (await listener.told("trackAdded", STEP))["d"] == {"language": "de"}

        await speaker.told("connectionWarning", LIFETIME)
        await browser.does("warned", STEP)
        second = token("ann", "speak")
        await speaker.say("token.refresh", {"token": second})
        await speaker.told("tokenRefreshed", STEP)
        await browser.does(f"renew {second}", STEP)
        # The first token and its grace are over, and the speaker is still heard.
        await asyncio.sleep(max(0.0, started + LIFETIME + GRACE + 2 - time.monotonic()))
        await asyncio.gather(*(peer.hear(packets=100, seconds=STEP) for peer in peers))

        relay.call("DELETE", f"/v1/sessions/{session.id}", token=second)
        await asyncio.gather(speaker.closed(STEP), listener.closed(STEP))
        await browser.does("ended", STEP)
        for program in own:
            heard = json.loads(await last_line(program))
            assert heard["packets"] > 500 and heard["lost"] == 0, program.told()
        for peer in peers:
            await peer.connection.close()
    return speaker, listener


async def quiet(peers: list[Listener]) -> list[int]:
    """Waits until nothing has come to anybody for a second: a pause is heard as silence, on a connection that stands."""
    async with asyncio.timeout(STEP):
        while True:
            before = [len(peer.packets) for peer in peers]
            await asyncio.sleep(1)
            after = [len(peer.packets) for peer in peers]
            if before == after:
                return after


async def last_line(program: Program) -> str:
    """The summary of a program that the relay has sent away."""
    async with asyncio.timeout(STEP):
        await program.process.wait()
        await program.reader
    return next(line for line in program.lines if line.startswith("{"))


def compare(name: str, log: list[dict]) -> None:
    """Holds a log against its golden file."""
    path = GOLDEN / f"session-{name}.json"
    text = "[\n" + ",\n".join(json.dumps(frame) for frame in log) + "\n]\n"
    if os.environ.get("RELAY_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert json.loads(path.read_text()) == log, f"{path} holds another log than this:\n{text}"
