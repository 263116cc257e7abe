#!/usr/bin/env python3
"""Janus (Debian's 1.1.2, `apt-get install janus`) behind WHIP and WHEP, so that `relayd load` can measure it.

    benches/peers/janus.py [--port 18188] [--event-loops N]

starts Janus with a configuration of its own, prints its process and the addresses to load, and ends with it on SIGINT or
SIGTERM. WHIP is a publisher of the VideoRoom plugin whose RTP is forwarded to a mountpoint of the Streaming plugin; WHEP is a
viewer of that mountpoint: the way that Janus itself is used for broadcasts. Media goes from Janus to the tester directly; only
signalling passes here.

That version's Streaming plugin offers and does not take offers. So a WHEP offer is not handed on: from the two offers an answer is
made for either side. Both would control ICE then; Janus yields as ICE-lite. DTLS: the tester is active, Janus passive.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOUNTPOINT, ROOM = 1, 1

CORE = """
general: {{
    configs_folder = "{folder}"
    plugins_folder = "/usr/lib/x86_64-linux-gnu/janus/plugins"
    transports_folder = "/usr/lib/x86_64-linux-gnu/janus/transports"
    debug_level = 2
    log_to_stdout = true
    session_timeout = 0
    event_loops = {event_loops}
}}
nat: {{
    ice_lite = true
    ipv6 = false
}}
media: {{
    rtp_port_range = "20000-65000"
}}
plugins: {{
    disable = "libjanus_audiobridge.so,libjanus_duktape.so,libjanus_echotest.so,libjanus_lua.so,libjanus_nosip.so,libjanus_recordplay.so,libjanus_sip.so,libjanus_textroom.so,libjanus_videocall.so,libjanus_voicemail.so"
}}
transports: {{
    disable = "libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,libjanus_rabbitmq.so,libjanus_websockets.so"
}}
"""
HTTP = 'general: {{ json = "compact" \n base_path = "/janus" \n http = true \n port = {port} \n ip = "127.0.0.1" \n https = false }}\n'
STREAMING = """
relay: {{
    type = "rtp"
    id = {mountpoint}
    audio = true
    video = false
    audioport = {audio}
    audiopt = 111
    audiocodec = "opus"
    helper_threads = {helpers}
}}
"""
VIDEOROOM = 'room-{room}: {{ description = "relay" \n publishers = 100 \n audiocodec = "opus" \n audiolevel_ext = true \n notify_joining = false }}\n'


class Janus:
    """Its HTTP API; a connection for each thread."""

    def __init__(self, port: int):
        self.port, self.local = port, threading.local()

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        if body is not None:
            body = json.dumps({"transaction": f"{random.getrandbits(48):x}", **body})
        for again in (True, False):
            connection = getattr(self.local, "connection", None)
            if connection is None:
                connection = self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request(method, "/janus" + path, body, {"Content-Type": "application/json"})
                return json.loads(connection.getresponse().read())
            except (http.client.HTTPException, OSError):
                connection.close()
                self.local.connection = None
                if not again:
                    raise
        raise AssertionError

    def attach(self, plugin: str) -> tuple[str, str]:
        session = f"/{self.ask('POST', '', {'janus': 'create'})['data']['id']}"
        handle = self.ask("POST", session, {"janus": "attach", "plugin": f"janus.plugin.{plugin}"})["data"]["id"]
        return session, f"{session}/{handle}"

    def message(self, handle: str, body: dict, jsep: dict | None = None) -> dict:
        request = {"janus": "message", "body": body}
        return self.ask("POST", handle, request | ({"jsep": jsep} if jsep else {}))

    def description(self, session: str) -> str:
        """The next event with a session description."""
        for _ in range(20):
            event = self.ask("GET", f"{session}?maxev=1")
            if "jsep" in event:
                return event["jsep"]["sdp"]
            error = event.get("plugindata", {}).get("data", {}).get("error")
            if error:
                raise RuntimeError(error)
        raise RuntimeError("no description came")


def lines(sdp: str, *kinds: str) -> list[str]:
    return [line for line in sdp.splitlines() if line.startswith(kinds)]


def answer(to: str, of: str, setup: str, direction: str) -> str:
    """An answer to one offer with transport and candidates of the other."""
    media = lines(to, "m=")[0]
    opus = re.search(r"a=rtpmap:(\d+) opus/48000", to).group(1)
    port, proto = media.split()[1:3]
    body = [
        "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=ice-lite" if "a=ice-lite" in of else "a=x-full",
        *lines(to, "a=group:BUNDLE"), f"m=audio {port} {proto} {opus}", "c=IN IP4 0.0.0.0",
        *lines(to, "a=mid:"), f"a={direction}", "a=rtcp-mux", f"a=setup:{setup}",
        *lines(of, "a=ice-ufrag:")[:1], *lines(of, "a=ice-pwd:")[:1], *lines(of, "a=fingerprint:")[:1],
        f"a=rtpmap:{opus} opus/48000/2", *lines(of, "a=candidate:"), "a=end-of-candidates",
    ]  # fmt: skip
    return "\r\n".join(line for line in body if line != "a=x-full") + "\r\n"


class Handler(BaseHTTPRequestHandler):
    """WHIP, WHEP, and DELETE of what they made."""

    protocol_version = "HTTP/1.1"
    janus: Janus
    audio_port: int

    def do_POST(self) -> None:
        offer = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            session, sdp = (self.publish if self.path.startswith("/whip") else self.listen)(offer)
        except Exception as error:  # Told to whoever asked.
            return self.reply(503, f"{type(error).__name__}: {error}", {"Content-Type": "text/plain"})
        headers = {"Content-Type": "application/sdp", "Location": f"/connections{session}"}
        return self.reply(201, sdp, headers)

    def do_DELETE(self) -> None:
        self.janus.ask("POST", self.path.removeprefix("/connections"), {"janus": "destroy"})
        self.reply(200, "", {})

    def publish(self, offer: str) -> tuple[str, str]:
        session, handle = self.janus.attach("videoroom")
        number = random.getrandbits(31)
        join = {"request": "joinandconfigure", "ptype": "publisher", "room": ROOM, "id": number}
        self.janus.message(handle, join, {"type": "offer", "sdp": offer})
        sdp = self.janus.description(session)
        forward = {"request": "rtp_forward", "room": ROOM, "publisher_id": number, "host": "127.0.0.1"}
        forward["streams"] = [{"mid": lines(offer, "a=mid:")[0][6:], "port": self.audio_port, "pt": 111}]
        told = self.janus.message(handle, forward)
        if "error" in json.dumps(told):
            raise RuntimeError(json.dumps(told))
        return session, sdp

    def listen(self, offer: str) -> tuple[str, str]:
        session, handle = self.janus.attach("streaming")
        self.janus.message(handle, {"request": "watch", "id": MOUNTPOINT})
        theirs = self.janus.description(session)
        ours = answer(theirs, offer, "active", "recvonly")
        self.janus.message(handle, {"request": "start"}, {"type": "answer", "sdp": ours})
        return session, answer(offer, theirs, "passive", "sendonly")

    def reply(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def start(folder: str, port: int, options: argparse.Namespace) -> subprocess.Popen:
    def write(name: str, text: str) -> None:
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)

    write("janus.jcfg", CORE.format(folder=folder, event_loops=options.event_loops))
    write("janus.transport.http.jcfg", HTTP.format(port=port))
    audio, helpers = options.port + 2, options.helper_threads
    write("janus.plugin.streaming.jcfg", STREAMING.format(mountpoint=MOUNTPOINT, audio=audio, helpers=helpers))
    write("janus.plugin.videoroom.jcfg", VIDEOROOM.format(room=ROOM))
    log = open(os.path.join(folder, "janus.log"), "w")
    return subprocess.Popen(["janus", "-F", folder], stdout=log, stderr=log)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=18188, help="this one and the next two are used")
    parser.add_argument("--event-loops", type=int, default=0, help="0: a thread for each peer, as Janus does by default")
    parser.add_argument("--helper-threads", type=int, default=0, help="of the mountpoint")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as folder:
        process = start(folder, options.port + 1, options)
        try:
            Handler.janus, Handler.audio_port = Janus(options.port + 1), options.port + 2
            for _ in range(100):
                try:
                    Handler.janus.ask("GET", "/info")
                    break
                except OSError:
                    time.sleep(0.1)
            # Janus has no candidates on loopback: the tester has to come from the address that they are on.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(("192.0.2.1", 9))
                host = probe.getsockname()[0]
            server = Server((host, options.port), Handler)
            url = f"http://{host}:{options.port}"
            print(f"--whip {url}/whip/x --whep {url}/whep/x --server-pid {process.pid}", flush=True)
            server.serve_forever()
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
