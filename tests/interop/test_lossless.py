"""A connection is replaced under a listener, and nothing of what is said is missing, comes twice or out of order.

What is said is the train of `chirps.py`, so that a recording tells the same as the packets do.
"""

import asyncio
import contextlib
import json
from urllib.parse import urljoin

from audio import compare, decode, faults
from chirps import hear
from clients import Program, publishing
from events import Follower
from figures import note
from legs import one_after_the_other, one_line
from whip import Listener

RESTARTS = 5
REFRESHES = 3
STEP = 60
TAKES = 3
# A browser says every five seconds what it has; all since is sent again, four times as fast as it plays, before what is new.
RESEND_MS = 1400
# How far the players of two connections may be apart.
APART_MS = 100
# For how long nothing gets through, in seconds.
BLACKOUT = 1.5


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
    note("aiortc", "ICE restart by PATCH", RESTARTS, len(stream.missing), stream.repeated, hear(stream.sound()))
    for heard in (hear(stream.sound()), hear(listener.recording())):
        assert len(heard.chirps) > 60 and (heard.missing, heard.repeated, heard.backwards) == ([], [], 0), heard
        assert heard.silence_ms <= 20, heard


def test_what_a_dead_path_swallowed_comes_after_the_restart(relay, chirped, tmp_path, within):
    async def died():
        async with listening_to_chirps(relay, chirped, tmp_path) as (_, listener):
            listener.path.die()
            await asyncio.sleep(BLACKOUT)
            before = len(listener.packets)
            await listener.restart()
            await listener.hear(packets=int(50 * BLACKOUT) + 100, seconds=20)
            await listener.leave()
            return listener, before

    listener, before = within(died(), 90)
    stream = one_line(listener.packets)
    assert (stream.missing, stream.repeated) == ([], 0)
    # Oldest first, though what is new may come between.
    replayed = [place for place in stream.arrivals[before:] if place < before + 50 * BLACKOUT]
    assert replayed == sorted(replayed)
    heard = hear(stream.sound())
    note("aiortc", f"path dead for {BLACKOUT} s, then ICE restart", 1, len(stream.missing), stream.repeated, heard)
    assert len(heard.chirps) > 30 and (heard.missing, heard.repeated, heard.backwards) == ([], [], 0), heard
    assert heard.silence_ms <= 20, heard


def test_a_second_connection_takes_over_without_a_hole(relay, chirped, tmp_path, within):
    async def refreshed():
        async with listening_to_chirps(relay, chirped, tmp_path) as (session, listener):
            listeners, told = [listener], []
            for _ in range(REFRESHES):
                follower = await Follower(session.events, leg=listeners[-1].location.rsplit("/", 1)[1]).follow()
                await asyncio.to_thread(order_refresh, relay, session, "listener")
                order = (await follower.told("connectionRefreshRequired", STEP))["d"]
                fresh = await Listener(urljoin(relay.url, order["url"])).tune(order["ticket"])
                told.append((await follower.told("connectionRefreshComplete", STEP))["d"])
                # The relay ends it.
                await listeners[-1].becomes("closed", STEP)
                await follower.vanish()
                listeners.append(fresh)
                await fresh.hear(packets=100, seconds=20)
            await listeners[-1].leave()
            return listeners, told

    listeners, told = within(refreshed(), 120)
    stream = one_after_the_other([listener.packets for listener in listeners])
    assert stream.missing == []
    assert all(done["gapFrames"] == 0 for done in told), told
    # What the old connection is not known to have delivered comes again by the new one, and is said to.
    assert stream.repeated <= sum(done["replayed"] for done in told), told
    heard = hear(stream.sound())
    note("aiortc", "second connection", REFRESHES, len(stream.missing), stream.repeated, heard)
    assert len(heard.chirps) > 60 and (heard.missing, heard.repeated, heard.backwards) == ([], [], 0), heard
    assert heard.silence_ms <= 20, heard


def order_refresh(relay, session, role: str) -> None:
    ordered = relay.call("POST", f"/v1/sessions/{session.id}/refresh", {"role": role})
    assert ordered == {"ordered": 1}


def test_ice_restarts_in_a_browser_lose_nothing(relay, chirped, tmp_path, within):
    wav, stats = tmp_path / "heard.wav", tmp_path / "stats.json"

    async def restarted():
        session = relay.session("en")
        async with publishing("relayd", relay, session, chirped, tmp_path):
            async with browser(session, wav, stats) as page:
                await page.does("stats before", STEP)
                for _ in range(RESTARTS):
                    await page.does("restart", STEP)
                    await page.does("settle 2", STEP)
                await page.does("stats after", STEP)
                await page.does("finish", STEP)

    within(restarted(), 120)
    told = json.loads(stats.read_text())
    (before,), (after,) = told["before"], told["after"]
    assert after["ssrc"] == before["ssrc"]
    assert after["packetsLost"] == before["packetsLost"]
    heard = hear(decode(wav))
    concealed = after["concealedSamples"] - before["concealedSamples"]
    note("Chromium", "ICE restart by PATCH", RESTARTS, len(heard.missing), len(heard.repeated), heard, concealed)
    assert len(heard.chirps) > 50 and (heard.repeated, heard.backwards) == ([], 0), heard
    # A silence in the midst of a chirp tears it, which is not to lose it.
    assert len(heard.missing) <= RESTARTS, heard
    assert heard.largest_step_ms <= RESEND_MS and heard.silence_ms <= RESEND_MS, heard


def test_second_connections_are_not_heard_in_a_browser(relay, chirped, tmp_path, within):
    """Two players of one sound are as far apart as their jitter buffers; a machine that has no time makes those long."""
    wav, stats = tmp_path / "heard.wav", tmp_path / "stats.json"

    async def refreshed():
        session = relay.session("en")
        async with publishing("relayd", relay, session, chirped, tmp_path):
            async with browser(session, wav, stats) as page:
                await page.does("settle 3", STEP)
                for number in range(REFRESHES):
                    await asyncio.to_thread(order_refresh, relay, session, "listener")
                    await page.does(f"replaced {number + 2}", STEP)
                    await page.does("settle 3", STEP)
                await page.does("stats after", STEP)
                await page.does("finish", STEP)

    for _ in range(TAKES):
        within(refreshed(), 120)
        (after,) = json.loads(stats.read_text())["after"]
        heard = hear(decode(wav))
        assert after["packetsLost"] == 0
        assert len(heard.chirps) > 60, heard
        if heard.largest_step_ms <= APART_MS and heard.silence_ms <= APART_MS:
            note("Chromium", "second connection", REFRESHES, len(heard.missing), len(heard.repeated), heard, after["concealedSamples"])
            return
    raise AssertionError(f"heard in each of {TAKES} takes: {heard}, {heard.delays_ms}")


def test_a_speaker_in_a_browser_is_moved_and_nobody_hears_it(relay, speech, said, within):
    async def moved():
        session = relay.session("en")
        async with Program("node", "lossless.mjs", "--page", session.pages["speak"], "--microphone", said.microphone) as page:
            await page.says("start", STEP)
            await page.does("speak", STEP)
            listener = await Listener(session.whep["en"]).tune()
            await listener.hear(packets=150, seconds=20)
            for number in range(REFRESHES):
                await asyncio.to_thread(order_refresh, relay, session, "publisher")
                await page.does(f"replaced {number + 2}", STEP)
                await listener.hear(packets=150, seconds=20)
            await listener.leave()
            return listener

    listener = within(moved(), 150)
    stream = one_line(listener.packets)
    assert (stream.missing, stream.repeated, stream.backwards) == ([], 0, 0)
    note("aiortc", "the speaker's Chromium gets a second connection", REFRESHES, len(stream.missing), stream.repeated)
    result = compare(speech, listener.recording())
    assert faults(result, 8, level_db=9.0) == [], result


@contextlib.asynccontextmanager
async def browser(session, wav, stats):
    """Chromium on the listening page, hearing the train."""
    async with Program("node", "lossless.mjs", "--page", session.pages["listen"], "--wav", wav, "--stats", stats) as page:
        await page.says("start", STEP)
        await page.does("listen", STEP)
        yield page
