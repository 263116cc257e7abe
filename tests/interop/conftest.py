"""Shared fixtures: the speech that is said, and a relay to say it to."""

import asyncio
import os
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from audio import decode
from chirps import say, train
from clients import Speech
from relay import Relay

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "relayd" / "assets"


@pytest.fixture(scope="session")
def speech_file() -> Path:
    """The bundled English speech as Ogg Opus."""
    return ASSETS / "en.ogg"


@pytest.fixture(scope="session")
def speech(speech_file: Path) -> np.ndarray:
    """The same, decoded."""
    return decode(speech_file)


@pytest.fixture(scope="session")
def other_speech() -> np.ndarray:
    """Speech that is not the one above."""
    return decode(ASSETS / "es.ogg")


@pytest.fixture(scope="session")
def said(speech_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Speech:
    """The speech in every form that publishers take."""
    folder = tmp_path_factory.mktemp("speech")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
    with av.open(str(speech_file)) as source:
        parts = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    samples = b"".join(part.to_ndarray().tobytes() for part in parts)
    return Speech(speech_file, wav(folder / "once.wav", samples), wav(folder / "microphone.wav", samples * 8))


@pytest.fixture(scope="session")
def chirped(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    """The train of chirps in every form that publishers take."""
    folder = tmp_path_factory.mktemp("chirps")
    samples = (train(48_000) * 32_767).astype(np.int16)
    path = folder / "once.wav"
    say(path)
    return Speech(opus(folder / "once.ogg", samples), path, path)


def opus(path: Path, samples: np.ndarray) -> Path:
    """Writes 48 kHz mono 16-bit samples as Ogg Opus, 20 ms a packet."""
    with av.open(str(path), "w", format="ogg") as out:
        # The mode for music: the one for speech bends fast sweeps.
        stream = out.add_stream("libopus", rate=48_000, layout="mono", options={"application": "lowdelay"})
        stream.bit_rate = 64_000
        for at in range(0, len(samples) - 959, 960):
            frame = av.AudioFrame.from_ndarray(samples[at : at + 960].reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48_000, at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def wav(path: Path, samples: bytes) -> Path:
    """Writes 48 kHz mono 16-bit samples."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 48_000, 0, "NONE", ""))
        out.writeframes(samples)
    return path


@pytest.fixture(scope="session")
def relayd() -> Path:
    """The binary under test."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    binary = Path(os.environ.get("RELAYD", target / "release" / "relayd")).resolve()
    assert binary.is_file(), f"{binary} is missing: cargo build --release -p relayd"
    return binary


@pytest.fixture
def relay(relayd: Path, tmp_path: Path):
    """A relay of this test's own. It must have run to the end, and stop when asked."""
    with Relay(relayd, tmp_path / "relayd.log") as running:
        yield running


@pytest.fixture
def within():
    """Runs a coroutine to its end, within a deadline in seconds."""

    def run(coroutine, seconds: float):
        async def bounded():
            async with asyncio.timeout(seconds):
                return await coroutine

        return asyncio.run(bounded())

    return run
