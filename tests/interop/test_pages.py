"""The pages in a real browser: what people click, and the words they are shown when something fails."""

import subprocess
from pathlib import Path

import pytest

from clients import Speech
from relay import Relay

HERE = Path(__file__).resolve().parent


def click_through(relay: Relay, said: Speech, *more: str) -> None:
    command = ["node", "pages.mjs", "--base", relay.url, "--wav", str(said.microphone), *more]
    done = subprocess.run(command, cwd=HERE, timeout=240, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_every_page_and_failure_says_what_to_do(relay: Relay, said: Speech):
    click_through(relay, said)


def test_a_killed_relay_is_said_to_listener_and_speaker(relayd: Path, said: Speech, tmp_path: Path):
    relay = Relay(relayd, tmp_path / "relayd.log")
    relay.__enter__()  # not `with`: this relay is meant to end early
    try:
        click_through(relay, said, "--only", "killed", "--relay-pid", str(relay.process.pid))
    finally:
        relay.process.kill()
        relay.process.wait()
        relay.output.close()


@pytest.mark.parametrize("module", ["docs", "sdp", "events", "refresh", "session", "splice"])
def test_the_modules_of_the_pages_hold_their_own_tests(module: str):
    done = subprocess.run(["node", "--test", f"{module}.test.mjs"], cwd=HERE, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
