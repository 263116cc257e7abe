"""Who comes first, who leaves and returns, and many at once."""

import asyncio
from itertools import pairwise

from audio import compare, faults
from clients import Program, listening, publishing, speaker_connected
from whip import Listener, Publisher

MANY = 50


def test_a_listener_may_come_before_the_speaker(relay, speech, said, within):
    async def early():
        session = relay.session("en")
        listener = await Listener(session.whep["en"]).tune()
        assert listener.packets == []
        assert relay.state(session)["speakerConnected"] is False
        publisher = await Publisher(session.whip["en"]).speak(said.wav)
        await listener.hear(packets=500, seconds=30)
        await listener.leave()
        await publisher.leave()
        return listener

    listener = within(early(), 60)
    assert faults(compare(speech, listener.recording()), 8) == []


def test_a_speaker_leaves_and_returns_and_the_listener_hears_one_stream(relay, speech, said, within):
    async def interrupted():
        session = relay.session("en")
        listener = await Listener(session.whep["en"]).tune()
        first = await Publisher(session.whip["en"]).speak(said.wav)
        await listener.hear(packets=250, seconds=20)
        await first.leave()
        await speaker_connected(relay, session, wanted=False)
        before, frames_before = len(listener.packets), len(listener.frames)
        second = await Publisher(session.whip["en"]).speak(said.wav)
        await listener.hear(packets=500, seconds=30)
        assert listener.connection.connectionState == "connected"
        await listener.leave()
        await second.leave()
        return listener, before, frames_before

    listener, before, frames_before = within(interrupted(), 90)
    packets = listener.packets
    assert {packet.ssrc for packet in packets} == {packets[0].ssrc}, "the SSRC changed"
    for index, (earlier, later) in enumerate(pairwise(packets)):
        step = (later.timestamp - earlier.timestamp) % 2**32
        assert later.sequence == (earlier.sequence + 1) % 2**16, "sequence numbers do not go on"
        if index != before - 1:
            assert step == 960, f"packet {index}: a step of {step} in the timestamps"
        else:
            # The timeline went on while nobody spoke: the pause is on the wire, and no longer than the test.
            assert 960 < step < 60 * 48_000, f"a pause of {step} ticks"
    del listener.frames[: frames_before + 25]
    assert faults(compare(speech, listener.recording()), 7) == []


def test_fifty_listeners_at_once_all_hear_it(relay, speech, said, tmp_path, within):
    async def crowd():
        session = relay.session("en")
        async with publishing("relayd", relay, session, said, tmp_path):
            folders = [tmp_path / str(number) for number in range(MANY)]
            for folder in folders:
                folder.mkdir()
            return await asyncio.gather(*(listening("relayd", relay, session, 8, folder) for folder in folders))

    complaints = []
    for number, heard in enumerate(within(crowd(), 150)):
        result = compare(speech, heard.recording)
        found = faults(result, 5) + ([f"{heard.lost} packets lost"] if heard.lost else [])
        complaints += [f"listener {number}: {fault} ({result})" for fault in found]
    assert complaints == []


def test_commands_tell_scripts_what_went_wrong(relay, said, within):
    async def exit_code(*command) -> int:
        async with Program(relay.binary, *command) as program:
            async with asyncio.timeout(30):
                return await program.process.wait()

    async def codes():
        session = relay.session("en")
        nobody = f"http://127.0.0.1:{relay.port}/whep/no-such-session/en"
        return [
            await exit_code("listen", nobody, "--seconds", "1"),
            await exit_code("publish", session.whip["en"].replace(session.id, "no-such-session"), said.ogg),
            await exit_code("listen", "http://127.0.0.1:1/whep/demo/en", "--seconds", "1"),
            await exit_code("listen"),
        ]

    assert within(codes(), 120) == [5, 5, 4, 2]
