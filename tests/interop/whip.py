"""A WHIP and WHEP client on aiortc, written from RFC 9725 and the WHEP draft, not from the relay."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import aiohttp
import aioice.ice
import numpy as np
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

from audio import collect

CONNECT_SECONDS = 15

# aioice leaves the loopback address out, where the relay under test is: the tests must not need another network.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


@dataclass
class Packet:
    """What one RTP packet said."""

    ssrc: int
    sequence: int
    timestamp: int


@dataclass
class Endpoint:
    """One WebRTC connection made by one POST and ended by one DELETE."""

    url: str
    connection: RTCPeerConnection = field(default_factory=RTCPeerConnection)
    location: str = ""
    etag: str = ""
    accept_patch: str = ""

    async def join(self) -> None:
        """Offers, posts, answers, and waits until the connection stands."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        offer = self.connection.localDescription.sdp
        headers = {"Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as http, http.post(self.url, data=offer, headers=headers) as reply:
            text = await reply.text()
            assert reply.status == 201, f"{self.url}: {reply.status} {text}"
            assert reply.content_type == "application/sdp", reply.content_type
            self.location = urljoin(self.url, reply.headers["Location"])
            self.etag = reply.headers.get("ETag", "")
            self.accept_patch = reply.headers.get("Accept-Patch", "")
        await self.connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
        await self.connected()

    async def connected(self) -> None:
        changed = asyncio.Event()
        self.connection.on("connectionstatechange", changed.set)
        async with asyncio.timeout(CONNECT_SECONDS):
            while self.connection.connectionState != "connected":
                assert self.connection.connectionState in ("new", "connecting"), self.connection.connectionState
                await changed.wait()
                changed.clear()

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

    async def tune(self) -> "Listener":
        self.frames = []
        self.packets: list[Packet] = []
        self.heard = asyncio.Event()
        transceiver = self.connection.addTransceiver("audio", direction="recvonly")
        self.note_packets(transceiver.receiver)
        self.tasks = []
        self.connection.on("track", lambda track: self.tasks.append(asyncio.create_task(self.record(track))))
        await self.join()
        return self

    def note_packets(self, receiver) -> None:
        handle = receiver._handle_rtp_packet

        async def noted(packet, arrival_time_ms):
            self.packets.append(Packet(packet.ssrc, packet.sequence_number, packet.timestamp))
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
        await asyncio.gather(*self.tasks)
