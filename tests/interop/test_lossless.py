"""A connection is replaced under a listener, and nothing of what is said is missing, comes twice or out of order.

What is said is the train of `chirps.py`, so that a recording tells the same as the packets do.
"""

import contextlib
import json

from audio import decode
from chirps import hear
from clients import Program, publishing
from legs import one_line
from whip import Listener

RESTARTS = 5
STEP = 60


@contextlib.asynccontextmanager
async def listening_to_chirps(relay, chirped, folder):
    """An aiortc listener of a session in which `relayd publish` says the train."""
    session = relay.session("en")
    async with publishing("relayd", relay, session, chirped, folder):
        listener = await Listener(session.whep["en"]).tune()
        await listener.hear(packets=100, seconds=20)
        yield session, listener


def test_ice_restarts_keep_ssrc_numbers_and_every_packet(relay, chirped, tmp_path, within):
    async def restarted():
        async with listening_to_chirps(relay, chirped, tmp_path) as (_, listener):
            for _ in range(RESTARTS):
                await listener.restart()
                await listener.hear(packets=50, seconds=20)
            await listener.leave()
            return listener

    listener = within(restarted(), 90)
    stream = one_line(listener.packets)
    assert (stream.missing, stream.repeated, stream.backwards) == ([], 0, 0)
    for heard in (hear(stream.sound()), hear(listener.recording())):
        assert len(heard.chirps) > 60 and (heard.missing, heard.repeated, heard.backwards) == ([], [], 0), heard
        assert heard.silence_ms <= 20, heard


def test_ice_restarts_are_not_heard_in_a_browser(relay, chirped, tmp_path, within):
    wav, stats = tmp_path / "heard.wav", tmp_path / "stats.json"

    async def restarted():
        session = relay.session("en")
        async with publishing("relayd", relay, session, chirped, tmp_path):
            async with browser(session, wav, stats) as page:
                await page.does("stats before", STEP)
                for _ in range(RESTARTS):
                    await page.does("restart", STEP)
                    await page.does("settle 1", STEP)
                await page.does("stats after", STEP)
                await page.does("finish", STEP)

    within(restarted(), 120)
    told = json.loads(stats.read_text())
    (before,), (after,) = told["before"], told["after"]
    assert after["ssrc"] == before["ssrc"]
    assert after["packetsLost"] == before["packetsLost"]
    heard = hear(decode(wav))
    assert len(heard.chirps) > 50 and (heard.missing, heard.repeated, heard.backwards) == ([], [], 0), heard
    assert heard.silence_ms <= 20, heard
    concealed = after["concealedSamples"] - before["concealedSamples"]
    assert concealed <= 0.06 * RESTARTS * 48_000, f"{concealed} samples were concealed"


@contextlib.asynccontextmanager
async def browser(session, wav, stats):
    """Chromium on the listening page, hearing the train."""
    async with Program("node", "lossless.mjs", "--page", session.pages["listen"], "--wav", wav, "--stats", stats) as page:
        await page.says("start", STEP)
        await page.does("listen", STEP)
        yield page
