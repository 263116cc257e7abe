"""A connection is replaced under a listener, and nothing of what is said is missing, comes twice or out of order.

What is said is the train of `chirps.py`, so that a recording tells the same as the packets do.
"""

import asyncio
import contextlib

from chirps import hear
from clients import publishing
from legs import one_line
from whip import Listener

RESTARTS = 5


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
