"""What schemathesis is told about the relay: ids that are there, and that 503 may be an honest answer.

Loaded by its command line (`SCHEMATHESIS_HOOKS`). `RELAY_URL` and `RELAY_TOKEN` say where sessions are made and by whom.
"""

import collections
import contextlib
import itertools
import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import schemathesis

OFFER = Path(__file__).resolve().parents[2] / "fuzz" / "corpus" / "sdp_offer" / "chromium_recvonly"
NOBODY = "0123456789abcdef0123456789abcdef"
LANGUAGES = ("en", "es", "EN", "fr")
turns = itertools.count()
# A relay has room for a thousand sessions: the oldest of those made here are ended again.
KEPT_SESSIONS = 50
sessions: collections.deque[str] = collections.deque()
sessions_lock = threading.Lock()


@schemathesis.check
def no_undocumented_failure(ctx, response, case) -> None:
    """Of server errors only 503 may be; that it is documented is for `status_code_conformance` to say."""
    assert response.status_code < 500 or response.status_code == 503, f"{response.status_code}: {response.text[:500]}"


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """Three of four requests are about something that is there; nobody waits for a stream to end."""
    names, turn = case.path_parameters or {}, next(turns)
    reads_stream = case.method.upper() == "GET" and "/sse" in case.path
    if reads_stream:
        names["leg"] = NOBODY
    if turn % 4 == 0:
        return
    if "session" in names:
        names["session"] = session()
        if "language" in names:
            names["language"] = LANGUAGES[turn % len(LANGUAGES)]
    if "leg" in names and not reads_stream:
        names["leg"] = leg()


def session() -> str:
    """A session of its own."""
    body = json.dumps({"sourceLanguage": "en", "languages": ["es"]}).encode()
    made = post("/v1/sessions", "application/json", body)
    name = made.headers["Location"].rsplit("/", 1)[1]
    with sessions_lock:
        sessions.append(name)
        over = sessions.popleft() if len(sessions) > KEPT_SESSIONS else None
    if over:
        end(over)
    return name


def end(name: str) -> None:
    """Ends a session, which a request may have ended before."""
    request = urllib.request.Request(f"{os.environ['RELAY_URL']}/v1/sessions/{name}", headers=holder(), method="DELETE")
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10).close()


def holder() -> dict[str, str]:
    token = os.environ.get("RELAY_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def leg() -> str:
    """A listener's connection of its own; it is given up when nobody answers its ICE."""
    return post(f"/whep/{session()}", "application/sdp", OFFER.read_bytes()).headers["Location"].rsplit("/", 1)[1]


def post(path: str, kind: str, body: bytes):
    """A good request, and its answer."""
    headers = {"Content-Type": kind} | holder()
    request = urllib.request.Request(os.environ["RELAY_URL"] + path, body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
        return answer


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def described(context, value):
    """SDP is text; what is not is sent as it would be written."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
