"""Compares what was heard with what was said.

Decodes anything that PyAV reads, finds where in the (endlessly repeated) speech the recording lies, follows the small
drifts that receivers' jitter buffers make by aligning piece by piece, and scores intelligibility (STOI), level and
continuity. `test_audio.py` damages speech in every way that must be noticed.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from pystoi import stoi
from scipy.signal import correlate, resample_poly

RATE = 16_000
WINDOW = int(0.32 * RATE)  # aligned as a whole
ANCHOR = 3 * RATE  # placed first, anywhere in the speech
SLACK = int(0.06 * RATE)  # how far a jitter buffer may have moved it since the last window
FRAME = RATE // 50  # 20 ms, one Opus frame


@dataclass(frozen=True)
class Comparison:
    """How a recording relates to the speech it should be."""

    seconds: float
    """Length of what was compared, silence at both ends cut off."""
    stoi: float
    """Short-time objective intelligibility: 1 is the speech itself."""
    correlation: float
    """Mean correlation coefficient of the aligned pieces that hold speech."""
    level_db: float
    """Level of the recording relative to the speech."""
    dropout_share: float
    """Share of the speech's 20 ms frames that are missing from the recording."""
    longest_dropout_ms: int
    """Longest run of such frames."""


def decode(path: Path) -> np.ndarray:
    """The samples of an audio file: mono, 16 kHz, floats."""
    with av.open(str(path)) as container:
        return collect(container.decode(audio=0))


def collect(frames) -> np.ndarray:
    """The samples of decoded frames: mono, 16 kHz, floats."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
    parts = [out.to_ndarray().reshape(-1) for frame in frames for out in resampler.resample(frame)]
    if not parts:
        return np.zeros(0)
    return resample_poly(np.concatenate(parts).astype(np.float64) / 32_768, 1, 3)


def trim(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends: a listener may come before the speaker."""
    levels = frame_levels(samples)
    loud = np.flatnonzero(levels > 1e-3)
    if len(loud) == 0:
        return samples[:0]
    return samples[loud[0] * FRAME : (loud[-1] + 1) * FRAME]


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """The root mean square of each 20 ms."""
    whole = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return np.sqrt((whole**2).mean(axis=1))


def best_lag(reference: np.ndarray, window: np.ndarray) -> tuple[int, float]:
    """Where in the reference the window fits best, and the correlation coefficient there."""
    products = correlate(reference, window, mode="valid", method="fft")
    energy = np.concatenate([[0.0], np.cumsum(reference**2)])
    local = energy[len(window) :] - energy[: len(reference) - len(window) + 1]
    # Silence fits everything: it must not win.
    floor = max(1e-9, 0.01 * float((window**2).sum()))
    scores = products / np.sqrt(np.maximum(local, floor) * max(float((window**2).sum()), 1e-9))
    lag = int(np.argmax(scores))
    return lag, float(scores[lag])


def align(speech: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The speech as it should have sounded at each moment of the recording, beside the recording."""
    repeats = len(heard) // len(speech) + 3
    reference = np.tile(speech, repeats)
    middle = (len(heard) - ANCHOR) // 2
    found, _ = best_lag(reference[: len(speech) + ANCHOR], heard[middle : middle + ANCHOR])
    offset = found - middle
    while offset < SLACK:
        offset += len(speech)
    expected, recorded, scores = [], [], []
    # From the middle outwards, so that each piece starts from its neighbour's offset.
    starts = list(range(0, len(heard) - WINDOW + 1, WINDOW))
    pivot = (middle + ANCHOR // 2) // WINDOW
    placed: dict[int, tuple[int, float]] = {}
    for side in (range(pivot, len(starts)), range(pivot - 1, -1, -1)):
        current = offset
        for index in side:
            at = starts[index]
            low = max(0, at + current - SLACK)
            lag, score = best_lag(reference[low : at + current + WINDOW + SLACK], heard[at : at + WINDOW])
            if score > 0.5:
                current = low + lag - at
            placed[index] = (at + current, score)
    for index, at in enumerate(starts):
        place, score = placed[index]
        expected.append(reference[place : place + WINDOW])
        recorded.append(heard[at : at + WINDOW])
        if frame_levels(expected[-1]).max() > 0.02:
            scores.append(score)
    return np.concatenate(expected), np.concatenate(recorded), scores


def compare(speech: np.ndarray, recording: np.ndarray) -> Comparison:
    """Scores a recording of endlessly repeated speech."""
    heard = trim(recording)
    if len(heard) < ANCHOR + WINDOW:
        return Comparison(len(heard) / RATE, 0.0, 0.0, float("-inf"), 1.0, len(heard) * 1000 // RATE)
    expected, recorded, scores = align(speech, heard)
    said, got = frame_levels(expected), frame_levels(recorded)
    level = np.sqrt((recorded**2).mean() / (expected**2).mean())
    # A frame is missing if it should be heard and is 25 dB below what it should be, beside its neighbours too: an
    # alignment that is off by some milliseconds moves the edges of words.
    near = np.maximum(got, np.maximum(np.roll(got, 1), np.roll(got, -1)))
    active = said > said.max() * 10 ** (-25 / 20)
    missing = active & (near < said * level * 10 ** (-25 / 20))
    return Comparison(
        seconds=len(recorded) / RATE,
        stoi=float(stoi(expected, recorded, RATE)),
        correlation=float(np.mean(scores)) if scores else 0.0,
        level_db=float(20 * np.log10(max(level, 1e-9))),
        dropout_share=float(missing.sum() / max(1, active.sum())),
        longest_dropout_ms=longest_run(missing) * 20,
    )


def longest_run(flags: np.ndarray) -> int:
    """The most consecutive true values."""
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest


def faults(result: Comparison, seconds: float, level_db: float = 4.0) -> list[str]:
    """What is wrong with a recording that should hold so many seconds of the speech."""
    found = []
    if result.seconds < seconds:
        found.append(f"only {result.seconds:.1f} s of speech, {seconds:.1f} s wanted")
    if result.stoi < 0.9:
        found.append(f"intelligibility {result.stoi:.3f} is below 0.9")
    if abs(result.level_db) > level_db:
        found.append(f"the level is off by {result.level_db:+.1f} dB")
    if result.dropout_share > 0.01:
        found.append(f"{result.dropout_share:.1%} of the frames are missing")
    if result.longest_dropout_ms > 60:
        found.append(f"a gap of {result.longest_dropout_ms} ms")
    return found
