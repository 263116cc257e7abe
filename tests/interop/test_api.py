"""The API against its own description: schemathesis asks the running daemon what the OpenAPI document allows and forbids."""

import os
import subprocess
import sys
from pathlib import Path

from relay import Relay
from test_session import guarded, token  # noqa: F401  a fixture and what it needs

HERE = Path(__file__).resolve().parent
CHECKS = (
    "no_undocumented_failure",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = 15
SEED = 20261121


def conforms(relay: Relay, *headers: str, holder: str = "") -> None:
    """Every operation, with requests that are right and wrong; prints how to repeat it when it fails."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{relay.url}/v1/openapi.json",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES),
        "--seed", str(SEED), "--request-timeout", "20", "--suppress-health-check", "all", "--workers", "2",
        "--warnings", "off", *(part for header in headers for part in ("--header", header)),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "api_hooks", "PYTHONPATH": str(HERE), "RELAY_URL": relay.url, "RELAY_TOKEN": holder,
        "NO_COLOR": "1",
    }
    done = subprocess.run(command, cwd=relay.log.parent, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-12000:]}\n{done.stderr[-2000:]}"
    print(done.stdout[-1500:])


def test_an_open_relay_does_what_it_says(relay: Relay):
    conforms(relay)


def test_a_guarded_relay_does_what_it_says_to_an_administrator(guarded: Relay):  # noqa: F811
    holder = token("ann", "admin", session="*")
    conforms(guarded, f"Authorization: Bearer {holder}", holder=holder)


def test_a_guarded_relay_does_what_it_says_to_a_stranger(guarded: Relay):  # noqa: F811
    conforms(guarded, holder=token("ann", "admin", session="*"))
