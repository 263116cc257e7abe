"""Every kind of publisher to every kind of listener: what is heard is what was said.

No packet may be lost, in any take. How it sounds depends on the machine too: a client that gets no processor for a tenth
of a second conceals packets that came late. So a take that sounds wrong is repeated, and one of three must be right.
"""

import pytest

from audio import compare, faults
from clients import KINDS, listening_together, publishing

SECONDS = 12
TAKES = 3
# A browser's microphone passes its own processing: its level is the browser's.
LEVEL_DB = {"chromium": 9.0}


@pytest.mark.parametrize("publisher", KINDS)
def test_every_listener_hears_what_this_publisher_says(publisher, relay, speech, said, tmp_path, within):
    async def take():
        session = relay.session("en")
        async with publishing(publisher, relay, session, said, tmp_path):
            return await listening_together(relay, session, SECONDS, tmp_path)

    complaints = []
    for number in range(1, TAKES + 1):
        complaints = []
        for kind, heard in zip(KINDS, within(take(), 150), strict=True):
            result = compare(speech, heard.recording)
            print(f"take {number}, {publisher} -> {kind}: {heard.lost} lost, {result}")
            assert heard.lost == 0, f"{publisher} -> {kind}: {heard.lost} packets lost"
            found = faults(result, SECONDS - 4, LEVEL_DB.get(publisher, 4.0))
            complaints += [f"{publisher} -> {kind}: {fault} ({result})" for fault in found]
        if not complaints:
            return
    assert complaints == [], f"wrong in each of {TAKES} takes"
