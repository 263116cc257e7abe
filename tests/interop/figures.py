"""What the lossless tests measure, as the table of benches/RESULTS.md:

    RELAYD=target/release/relayd target/venv/bin/python tests/interop/figures.py

It runs `test_lossless.py`, each of whose tests notes its figures, and prints them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from chirps import Hearing

NOTES = "RELAY_FIGURES"
HEAD = ["who listens", "what happens", "times", "missing", "again", "longest silence ms", "largest step ms", "concealed samples"]


def note(who: str, what: str, times: int, missing: int, again: int, heard: Hearing | None = None, concealed: int | None = None) -> None:
    """One row: packets (or, in a browser, chirps) missing and come again, and what the recording tells."""
    if NOTES not in os.environ:
        return
    silence = f"{heard.silence_ms:.0f}" if heard else "–"
    step = f"{heard.largest_step_ms:.0f}" if heard else "–"
    row = [who, what, times, missing, again, silence, step, "–" if concealed is None else concealed]
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write(json.dumps(row) + "\n")


def table(rows: list[list]) -> str:
    lines = [HEAD, ["---", "---"] + ["---:"] * (len(HEAD) - 2), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> int:
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", here / "test_lossless.py"], env=os.environ | {NOTES: str(notes)}
        )
        rows = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    print(table(rows))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
