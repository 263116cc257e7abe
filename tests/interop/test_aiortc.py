"""aiortc speaks, aiortc listens: the protocol as RFC 9725 tells it, and the packets as they are on the wire."""

import asyncio

import aiohttp

from audio import compare, faults
from whip import Listener, Publisher, Endpoint


async def crossing(session, wav):
    listener = await Listener(session.whep["en"]).tune()
    publisher = await Publisher(session.whip["en"]).speak(wav)
    await listener.hear(packets=500, seconds=30)
    await listener.leave()
    await publisher.leave()
    return listener, publisher


def test_what_is_heard_is_what_was_said(relay, speech, said, within):
    session = relay.session("en")
    listener, _ = within(crossing(session, said.wav), 60)
    result = compare(speech, listener.recording())
    assert faults(result, 8) == [], result


def test_the_answer_has_what_rfc_9725_asks_for(relay, said, within):
    session = relay.session("en")
    ends = within(crossing(session, said.wav), 60)
    for end in ends:
        assert end.location.startswith(relay.url)
        assert end.etag.startswith('"'), end.etag
        assert end.accept_patch == "application/trickle-ice-sdpfrag"
    assert ends[0].location != ends[1].location


def test_packets_arrive_as_one_stream_without_a_hole(relay, said, within):
    session = relay.session("en")
    listener, _ = within(crossing(session, said.wav), 60)
    packets = listener.packets
    assert {packet.ssrc for packet in packets} == {packets[0].ssrc}
    first = packets[0]
    for index, packet in enumerate(packets):
        assert packet.sequence == (first.sequence + index) % 2**16, "a hole, a repeat or a packet out of order"
        assert packet.timestamp == (first.timestamp + 960 * index) % 2**32, "timestamps are not affine"


def test_a_second_speaker_is_refused_and_the_first_is_not_disturbed(relay, speech, said, within):
    async def second_speaker(session):
        listener = await Listener(session.whep["en"]).tune()
        publisher = await Publisher(session.whip["en"]).speak(said.wav)
        await listener.hear(packets=200, seconds=20)
        refused = Endpoint(session.whip["en"])
        refused.connection.addTransceiver("audio", direction="sendonly")
        await refused.connection.setLocalDescription(await refused.connection.createOffer())
        headers = {"Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as http:
            body = refused.connection.localDescription.sdp
            async with http.post(refused.url, data=body, headers=headers) as reply:
                status, problem = reply.status, await reply.json(content_type="application/problem+json")
        await refused.connection.close()
        await listener.hear(packets=300, seconds=20)
        await asyncio.gather(listener.leave(), publisher.leave())
        return status, problem, listener

    status, problem, listener = within(second_speaker(relay.session("en")), 60)
    assert (status, problem["code"]) == (409, "SPEAKER_EXISTS")
    assert faults(compare(speech, listener.recording()), 8) == []
