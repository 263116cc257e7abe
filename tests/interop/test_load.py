"""`relayd load` against a server that is not ours: aiortc, whose ICE, DTLS and SRTP are other people's."""

import asyncio
import json

from forwarder import Forwarder

LISTENERS = 5
# Speed is not tested: the tester may find that it does not keep up.
DONE = (0, 3)


async def loaded(binary, *arguments):
    async with Forwarder() as server:
        addresses = ["--whip", f"{server.url}/whip/x", "--whep", f"{server.url}/whep/x"]
        process = await asyncio.create_subprocess_exec(
            binary, "load", *addresses, "--json", *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return process.returncode, json.loads(output), server


def test_every_packet_is_heard_through_a_server_of_somebody_elses(relayd, within):
    arguments = ["--listeners", str(LISTENERS), "--ramp", "5", "--seconds", "3"]
    code, report, server = within(loaded(relayd, *arguments), 60)
    assert code in DONE, report["outcome"]
    joins, media = report["joins"], report["media"]
    assert (joins["connected"], joins["heard"]) == (LISTENERS, LISTENERS), joins
    assert (media["lost"], media["duplicates"], media["damaged"], media["unopened"]) == (0, 0, 0, 0), media
    assert media["foreign"] == 0 and media["packets"] > LISTENERS * 140, media
    assert report["steady"]["latencyMs"]["p50"] > 0
    assert sum(joins["srtp"].values()) == LISTENERS
    assert server.deleted == LISTENERS + 1, "what was made is deleted"
