"""A WHIP and WHEP server on aiortc that forwards Opus as it is: what `relayd load` is to work with besides a relay of ours."""

import asyncio
from fractions import Fraction

import av
from aiohttp import web
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

import whip  # For what it does to aioice: candidates on loopback.

assert whip.MONITOR
FRAME_TICKS = 960


class Forwarded(MediaStreamTrack):
    """The publisher's frames for one listener, not decoded."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent = 0

    async def recv(self) -> av.Packet:
        if self.readyState != "live":
            raise MediaStreamError
        packet = av.Packet(await self.frames.get())
        packet.pts, packet.time_base = self.sent * FRAME_TICKS, Fraction(1, 48_000)
        self.sent += 1
        return packet


class Forwarder:
    """The server: one publisher, any number of listeners, connections known by their number."""

    def __init__(self):
        self.connections: dict[str, RTCPeerConnection] = {}
        self.listeners: dict[str, Forwarded] = {}
        self.deleted = 0
        self.app = web.Application()
        self.app.add_routes(
            [
                web.post("/whip/x", self.publish),
                web.post("/whep/x", self.listen),
                web.delete("/connections/{name}", self.delete),
            ]
        )

    async def __aenter__(self) -> "Forwarder":
        self.runner = web.AppRunner(self.app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, kind, error, trace) -> None:
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))
        await self.runner.cleanup()

    async def publish(self, request: web.Request) -> web.Response:
        connection = RTCPeerConnection()
        await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        receiver = connection.getTransceivers()[0].receiver

        async def forward(packet, arrival_time_ms):
            for listener in self.listeners.values():
                listener.frames.put_nowait(packet.payload)

        receiver._handle_rtp_packet = forward
        return await self.answer(connection)

    async def listen(self, request: web.Request) -> web.Response:
        connection, track = RTCPeerConnection(), Forwarded()
        await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        connection.addTrack(track)
        name = str(len(self.connections))

        @connection.on("connectionstatechange")
        def changed():
            if connection.connectionState == "connected":
                self.listeners[name] = track
            else:
                self.listeners.pop(name, None)

        return await self.answer(connection)

    async def answer(self, connection: RTCPeerConnection) -> web.Response:
        name = str(len(self.connections))
        self.connections[name] = connection
        await connection.setLocalDescription(await connection.createAnswer())
        headers = {"Location": f"/connections/{name}"}
        body = connection.localDescription.sdp
        return web.Response(status=201, text=body, content_type="application/sdp", headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.deleted += 1
        self.listeners.pop(name, None)
        await self.connections[name].close()
        return web.Response()
