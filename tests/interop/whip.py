"""A WHIP and WHEP client on aiortc, written from RFC 9725 and the WHEP draft, not from the relay."""

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import aiohttp
import aioice
import aioice.ice
import numpy as np
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

from audio import collect

CONNECT_SECONDS = 15
MONITOR = "_RTCIceTransport__monitor_task"

# aioice leaves the loopback address out, where the relay under test is: the tests must not need another network.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


@dataclass
class Packet:
    """What one RTP packet said."""

    ssrc: int
    sequence: int
    timestamp: int
    payload: bytes = field(default=b"", repr=False)


class Path:
    """What an ICE transport of aiortc sends and receives by: one ICE session, or two while it restarts.

    aiortc restarts no ICE by itself; its datagrams are ours to give and take, DTLS and SRTP above stay as they are.
    """

    def __init__(self, transport):
        self.transport = transport
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.pumps: list[asyncio.Task] = []
        self.dead = False
        self.send_by = transport._send
        transport._recv, transport._send = self.receive, self.send

    async def receive(self) -> bytes:
        if not self.pumps:
            self.pump(self.transport._connection)
        data = await self.inbox.get()
        if data is None:
            raise ConnectionError("the last ICE session is over")
        return data

    async def send(self, data: bytes) -> None:
        if not self.dead:
            await self.send_by(data)

    def pump(self, ice) -> None:
        async def run() -> None:
            try:
                while True:
                    data = await ice.recv()
                    if not self.dead or ice is not self.transport._connection:
                        self.inbox.put_nowait(data)
            except ConnectionError:
                if ice is self.transport._connection:
                    self.inbox.put_nowait(None)

        self.pumps.append(asyncio.create_task(run()))

    def die(self) -> None:
        """Nothing gets through any more, in either direction, and nobody is told."""
        self.dead = True

    async def move_to(self, fresh) -> None:
        """Takes up a new ICE session, which is connected; what still comes by the old one counts for a second."""
        old, self.transport._connection, self.send_by = self.transport._connection, fresh, fresh.send
        # What watches for the end of the ICE session watches the new one.
        getattr(self.transport, MONITOR).cancel()
        setattr(self.transport, MONITOR, asyncio.create_task(self.transport._monitor()))
        self.dead = False
        self.pump(fresh)
        await asyncio.sleep(1)
        await old.close()

    def stop(self) -> None:
        for pump in self.pumps:
            pump.cancel()


@dataclass
class Endpoint:
    """One WebRTC connection made by one POST and ended by one DELETE."""

    url: str
    connection: RTCPeerConnection = field(default_factory=RTCPeerConnection)
    location: str = ""
    etag: str = ""
    accept_patch: str = ""
    ticket: str = ""

    async def join(self, ticket: str = "") -> None:
        """Offers, posts, answers, and waits until the connection stands; with a ticket as what goes on from another."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        offer = self.connection.localDescription.sdp
        headers = {"Content-Type": "application/sdp"} | ({"Relay-Ticket": ticket} if ticket else {})
        async with aiohttp.ClientSession() as http, http.post(self.url, data=offer, headers=headers) as reply:
            text = await reply.text()
            assert reply.status == 201, f"{self.url}: {reply.status} {text}"
            assert reply.content_type == "application/sdp", reply.content_type
            self.location = urljoin(self.url, reply.headers["Location"])
            self.etag = reply.headers.get("ETag", "")
            self.accept_patch = reply.headers.get("Accept-Patch", "")
            self.ticket = reply.headers.get("Relay-Ticket", "")
        await self.connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
        await self.connected()

    async def connected(self) -> None:
        await self.becomes("connected", seconds=CONNECT_SECONDS)
        assert self.connection.connectionState == "connected", self.connection.connectionState

    async def becomes(self, state: str, seconds: float) -> None:
        """Waits until the connection is in a state, or is over."""
        changed = asyncio.Event()
        self.connection.on("connectionstatechange", changed.set)
        async with asyncio.timeout(seconds):
            while self.connection.connectionState not in (state, "closed", "failed"):
                changed.clear()
                await changed.wait()

    async def leave(self) -> None:
        """DELETE, as RFC 9725 §4.2 has it, and only then the local end."""
        if self.location:
            async with aiohttp.ClientSession() as http, http.delete(self.location) as reply:
                assert reply.status in (200, 204), f"DELETE {self.location}: {reply.status}"
        await self.connection.close()


class Publisher(Endpoint):
    """Says a file, again and again."""

    async def speak(self, wav: Path) -> "Publisher":
        self.player = MediaPlayer(str(wav), loop=True)
        self.connection.addTransceiver(self.player.audio, direction="sendonly")
        await self.join()
        return self

    async def leave(self) -> None:
        await super().leave()
        self.player.audio.stop()


class Listener(Endpoint):
    """Hears a track, and keeps what it heard and each packet's header."""

    async def tune(self, ticket: str = "") -> "Listener":
        self.frames = []
        self.packets: list[Packet] = []
        self.heard = asyncio.Event()
        transceiver = self.connection.addTransceiver("audio", direction="recvonly")
        self.note_packets(transceiver.receiver)
        self.path = Path(transceiver.receiver.transport.transport)
        self.tasks = []
        self.connection.on("track", lambda track: self.tasks.append(asyncio.create_task(self.record(track))))
        await self.join(ticket)
        return self

    async def restart(self) -> None:
        """An ICE restart by PATCH (RFC 9725 §4.3.3), by a new socket as after a change of network."""
        fresh = aioice.ice.Connection(ice_controlling=True)
        await fresh.gather_candidates()
        credentials = [f"a=ice-ufrag:{fresh.local_username}", f"a=ice-pwd:{fresh.local_password}"]
        candidates = [f"a=candidate:{candidate.to_sdp()}" for candidate in fresh.local_candidates]
        section = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0"]
        body = "\r\n".join([*credentials, *section, *candidates, "a=end-of-candidates", ""])
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
        async with aiohttp.ClientSession() as http, http.patch(self.location, data=body, headers=headers) as reply:
            text = await reply.text()
            assert reply.status == 200, f"PATCH {self.location}: {reply.status} {text}"
            assert reply.headers["ETag"] != self.etag, "a restart has a new entity tag (RFC 9725 §4.3.3)"
            self.etag = reply.headers["ETag"]
        fresh.remote_is_lite = "a=ice-lite" in text
        fresh.remote_username = re.search(r"a=ice-ufrag:(\S+)", text)[1]
        fresh.remote_password = re.search(r"a=ice-pwd:(\S+)", text)[1]
        for line in re.findall(r"a=candidate:(.+)", text):
            await fresh.add_remote_candidate(aioice.Candidate.from_sdp(line.strip()))
        await fresh.add_remote_candidate(None)
        await fresh.connect()
        await self.path.move_to(fresh)

    def note_packets(self, receiver) -> None:
        handle = receiver._handle_rtp_packet

        async def noted(packet, arrival_time_ms):
            self.packets.append(Packet(packet.ssrc, packet.sequence_number, packet.timestamp, packet.payload))
            self.heard.set()
            await handle(packet, arrival_time_ms=arrival_time_ms)

        receiver._handle_rtp_packet = noted

    async def record(self, track) -> None:
        try:
            while True:
                self.frames.append(await track.recv())
        except MediaStreamError:
            return

    async def hear(self, packets: int, seconds: float) -> None:
        """Waits until so many more packets have come."""
        target = len(self.packets) + packets
        async with asyncio.timeout(seconds):
            while len(self.packets) < target:
                self.heard.clear()
                await self.heard.wait()

    def lost(self) -> int:
        """Packets missing between the first and the last, by sequence number."""
        first = self.packets[0].sequence
        # Signed distances from the first packet; no test is long enough to go half way round.
        distances = {(packet.sequence - first + 2**15) % 2**16 - 2**15 for packet in self.packets}
        return max(distances) - min(distances) + 1 - len(distances)

    def recording(self) -> np.ndarray:
        return collect(self.frames)

    async def leave(self) -> None:
        await super().leave()
        self.path.stop()
        await asyncio.gather(*self.tasks)
