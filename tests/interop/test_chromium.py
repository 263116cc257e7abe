"""The relay's own pages in a real browser: one speaks into a microphone, three listen."""

import asyncio

from audio import compare, decode, faults
from clients import Program, packets_lost, publishing

LISTENERS = 3
SECONDS = 12


def test_three_browsers_hear_what_a_fourth_says(relay, speech, said, tmp_path, within):
    out, stats = tmp_path / "heard.wav", tmp_path / "listeners.json"

    async def crossing():
        session = relay.session("en")
        async with publishing("chromium", relay, session, said, tmp_path):
            async with Program(
                "node", "chromium.mjs", "listen", "--page", session.pages["listen"], "--seconds", SECONDS,
                "--wav", out, "--stats", stats, "--count", LISTENERS,
            ) as listeners:
                await listeners.ends(SECONDS + 60)
            return await asyncio.to_thread(relay.state, session)

    state = within(crossing(), 150)
    assert state["speakerConnected"] is True
    recordings = sorted(tmp_path.glob("heard*.wav"))
    assert len(recordings) == LISTENERS, recordings
    for path in recordings:
        result = compare(speech, decode(path))
        # Noise suppression and automatic gain are on for speech: the level is the browser's.
        assert faults(result, SECONDS - 4, level_db=9.0) == [], (path, result)
    assert packets_lost(stats) == 0
