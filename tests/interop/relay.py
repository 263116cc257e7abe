"""A `relayd serve` of a test's own: on free ports, ready when the constructor returns, stopped at the end."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 20
STOP_SECONDS = 15


@dataclass(frozen=True)
class Session:
    """What `POST /v1/sessions` answered."""

    id: str
    whip: dict[str, str]
    whep: dict[str, str]
    pages: dict[str, str]
    events: str = ""


def free_port() -> int:
    """A port that is free for TCP and for UDP now."""
    for _ in range(50):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free for both TCP and UDP")


class Relay:
    """The daemon as a process."""

    def __init__(self, binary: Path, log: Path, **settings: str):
        self.binary = binary
        self.log = log
        self.port, self.ops_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ops_url = f"http://127.0.0.1:{self.ops_port}"
        self.settings = settings

    def __enter__(self) -> "Relay":
        environment = os.environ | {
            "RELAYD_HTTP_LISTEN": f"127.0.0.1:{self.port}",
            "RELAYD_WEBRTC_LISTEN": f"127.0.0.1:{self.port}",
            "RELAYD_OPS_LISTEN": f"127.0.0.1:{self.ops_port}",
        }
        environment |= {f"RELAYD_{key.upper()}": value for key, value in self.settings.items()}
        self.output = self.log.open("wb")
        self.process = subprocess.Popen(
            [self.binary, "serve"], env=environment, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output
        )
        until(self.is_ready, READY_SECONDS, f"relayd to be ready, see {self.log}")
        return self

    def __exit__(self, kind, error, trace) -> None:
        ended_early = self.process.poll()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = None
        self.output.close()
        log = self.log.read_text(errors="replace")
        if error is not None:
            print(f"---- {self.log}\n{log[-6000:]}")
            return
        assert ended_early is None, f"relayd ended by itself with {ended_early}:\n{log[-3000:]}"
        assert code == 0, f"relayd ended with {code} after SIGTERM:\n{log[-3000:]}"
        assert "panicked at" not in log, log[-3000:]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"{self.ops_url}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def call(self, method: str, path: str, body: dict | None = None, token: str | None = None) -> dict:
        """Calls the API and answers with the JSON it returned."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def session(self, *languages: str, token: str | None = None, **more: object) -> Session:
        """Creates a session; the first language is the speaker's."""
        source, *others = languages or ("en",)
        spec = {"sourceLanguage": source, "languages": list(others)} | more
        made = self.call("POST", "/v1/sessions", spec, token)
        return Session(made["sessionId"], made["whip"], made["whep"], made["pages"], made["events"])

    def state(self, session: Session) -> dict:
        """The session as the API shows it."""
        return self.call("GET", f"/v1/sessions/{session.id}")


def until(condition, seconds: float, what: str) -> None:
    """Waits for a condition that only asking can tell, until a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
