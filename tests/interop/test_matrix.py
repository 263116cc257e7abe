"""Every kind of publisher to every kind of listener: what is heard is what was said."""

import asyncio

import pytest

from audio import compare, faults
from clients import KINDS, listening, publishing

SECONDS = 12
# A browser's microphone passes noise suppression and automatic gain: its level is the browser's own.
LEVEL_DB = {"chromium": 9.0}


@pytest.mark.parametrize("publisher", KINDS)
def test_every_listener_hears_what_this_publisher_says(
    publisher, relay, speech, said, tmp_path, within
):
    async def crossing():
        session = relay.session("en")
        async with publishing(publisher, relay, session, said, tmp_path):
            jobs = [listening(kind, relay, session, SECONDS, tmp_path) for kind in KINDS]
            return await asyncio.gather(*jobs)

    recordings = within(crossing(), 150)
    complaints = []
    for kind, recording in zip(KINDS, recordings, strict=True):
        result = compare(speech, recording)
        print(f"{publisher} -> {kind}: {result}")
        found = faults(result, SECONDS - 4, LEVEL_DB.get(publisher, 4.0))
        complaints += [f"{publisher} -> {kind}: {fault} ({result})" for fault in found]
    assert complaints == []
