"""A train of chirps that tells, from a recording, what of it was heard, when, and where the sound broke off.

One chirp follows the other without a pause and at one level, so silence in a recording is a gap. Each has one of five shapes;
any four in a row name their place in the train, so a chirp that is missing or comes again is seen even where the time fits.
`hear` finds them by matched filters. `test_chirps.py` cuts, repeats, delays and garbles trains and holds `hear` to what it says.

    python chirps.py say train.wav      writes the train
    python chirps.py hear heard.ogg     tells what a recording holds of it
"""

import sys
import wave
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.signal import correlate

from audio import RATE, decode

CHIRP = RATE // 10  # 100 ms
EDGE = RATE // 200  # faded over 5 ms, so that no click spreads over the other bands
LEVEL = 0.4
# Start and end in Hz: far enough apart for each filter to answer to its own, all inside what any Opus mode carries.
SHAPES = [(400, 1600), (1600, 400), (1500, 3200), (3200, 1500), (700, 2700)]
NAMED_BY = 4
BLOCK = RATE // 200  # 5 ms: how finely the level is followed
QUIET = 10 ** (-20 / 20)
CLEAR = 0.55  # how much of a chirp must be there for it to count as heard: more than half
LOST_COST, SHAPE_COST, ODD_COST = 3.0, 1.2, 0.4


@dataclass(frozen=True)
class Hearing:
    """What a recording holds of the train."""

    chirps: list[int]
    """The places in the train of what was heard, in the order in which it was heard."""
    times: list[float] = field(repr=False)
    """When each began, in seconds from the start of the recording."""
    silence_ms: float
    """The longest silence between the first chirp and the last."""
    level_db: float
    """The level relative to what was said."""

    @property
    def missing(self) -> list[int]:
        """What was not heard of all between the first and the last."""
        return sorted(set(range(min(self.chirps), max(self.chirps) + 1)) - set(self.chirps)) if self.chirps else []

    @property
    def repeated(self) -> list[int]:
        """What was heard more than once."""
        return sorted({chirp for chirp in self.chirps if self.chirps.count(chirp) > 1})

    @property
    def backwards(self) -> int:
        """How often something came that is not newer than what came before it."""
        return sum(later <= earlier for earlier, later in pairwise(self.chirps))

    @property
    def delays_ms(self) -> np.ndarray:
        """How late each chirp is against the first: a jitter buffer's stretching, and every jump."""
        at = np.array(self.times) - np.array(self.chirps) * CHIRP / RATE
        return (at - at[0]) * 1000

    @property
    def largest_step_ms(self) -> float:
        """The largest change of the delay from one chirp to the next: what was inserted or cut at one place."""
        return float(np.abs(np.diff(self.delays_ms)).max()) if len(self.chirps) > 1 else 0.0


def places() -> list[int]:
    """The shapes of the whole train: a de Bruijn sequence, so that each run of `NAMED_BY` occurs once in the circle."""
    kinds, word, out = len(SHAPES), [0] * (len(SHAPES) * NAMED_BY), []

    def extend(length: int, period: int) -> None:
        if length > NAMED_BY:
            if NAMED_BY % period == 0:
                out.extend(word[1 : period + 1])
            return
        word[length] = word[length - period]
        extend(length + 1, period)
        for kind in range(word[length - period] + 1, kinds):
            word[length] = kind
            extend(length + 1, length)

    extend(1, 1)
    return out


PLACES = places()


def chirp(shape: int, rate: int = RATE) -> np.ndarray:
    """One chirp: a linear sweep, faded at both ends."""
    low, high = SHAPES[shape]
    time = np.arange(CHIRP * rate // RATE) / rate
    length = CHIRP / RATE
    sweep = LEVEL * np.sin(2 * np.pi * (low * time + (high - low) / (2 * length) * time**2))
    fade = EDGE * rate // RATE
    sweep[:fade] *= np.sin(np.linspace(0, np.pi / 2, fade))
    sweep[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade))
    return sweep


def train(rate: int = RATE) -> np.ndarray:
    """The whole train, 62.5 s; said in a circle it stays one train."""
    shapes = [chirp(shape, rate) for shape in range(len(SHAPES))]
    return np.concatenate([shapes[shape] for shape in PLACES])


def hear(recording: np.ndarray) -> Hearing:
    """What a recording (mono, 16 kHz) holds of the train, said again and again."""
    found, shapes = detect(recording)
    if len(found) == 0:
        return Hearing([], [], 0.0, float("-inf"))
    chirps, found = with_bent(recording, name(shapes, found), found)
    inside = recording[int(found[0]) : int(found[-1]) + CHIRP]
    level = np.sqrt((inside**2).mean()) / np.sqrt((train()[: 20 * CHIRP] ** 2).mean())
    return Hearing(chirps, [at / RATE for at in found], silence(inside), float(20 * np.log10(max(level, 1e-9))))


def detect(recording: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Where a chirp begins, in samples, and of which shape it is."""
    if len(recording) < CHIRP:
        return np.zeros(0), []
    loudness = usual_level(recording)
    scores = np.array([match(recording, chirp(shape), loudness) for shape in range(len(SHAPES))])
    best, shape = scores.max(axis=0), scores.argmax(axis=0)
    starts = []
    # The clearest first; what overlaps one that is taken by more than a third is its shadow, or torn.
    taken = np.zeros(len(best) + CHIRP, dtype=bool)
    for at in np.argsort(best)[::-1]:
        if best[at] < CLEAR:
            break
        if not taken[at]:
            starts.append(int(at))
            taken[max(0, at - 2 * CHIRP // 3) : at + 2 * CHIRP // 3] = True
    starts.sort()
    return np.array(starts), [int(shape[at]) for at in starts]


def with_bent(recording: np.ndarray, chirps: list[int], starts: np.ndarray) -> tuple[list[int], np.ndarray]:
    """With those that a jitter buffer has stretched or shortened in their midst: their halves are there, between the others."""
    heard = [(int(start), place) for start, place in zip(starts, chirps, strict=True)]
    loudness = usual_level(recording)
    for (start, place), (end, last) in pairwise(list(heard)):
        if not 1 < last - place <= 3 or end - start < 1.5 * CHIRP:
            continue
        for missing in range(place + 1, last):
            low = start + (missing - place) * CHIRP - CHIRP // 3
            window = recording[low : low + 5 * CHIRP // 3]
            whole = chirp(PLACES[missing % len(PLACES)])
            halves = [match(window, half, loudness) for half in (whole[: CHIRP // 2], whole[CHIRP // 2 :])]
            if min(half.max() for half in halves) > CLEAR:
                heard.append((low + int(halves[0].argmax()), missing))
    heard.sort()
    return [place for _, place in heard], np.array([start for start, _ in heard])


def match(recording: np.ndarray, wanted: np.ndarray, loudness: float = 0.0) -> np.ndarray:
    """How well the chirp fits at each place of the recording, whatever its sign: 1 is the chirp itself.

    The correlation coefficient; and where a part of it is silent, at most the share that is there at that loudness.
    """
    products = correlate(recording, wanted, mode="valid", method="fft")
    energy = np.concatenate([[0.0], np.cumsum(recording**2)])
    local = energy[len(wanted) :] - energy[: len(recording) - len(wanted) + 1]
    whole = float((wanted**2).sum())
    least = max(1e-4 * whole, len(wanted) * loudness**2)
    return np.abs(products) / np.sqrt(np.maximum(local, least) * whole)


def usual_level(recording: np.ndarray) -> float:
    """The level where there is sound."""
    levels = block_levels(recording)
    return float(np.median(levels[levels > 0.1 * levels.max()])) if levels.max() > 0 else 0.0


def block_levels(samples: np.ndarray) -> np.ndarray:
    """The root mean square of each block."""
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return np.sqrt((blocks**2).mean(axis=1))


def name(shapes: list[int], starts: np.ndarray) -> list[int]:
    """The most likely places in the train of a run of shapes (Viterbi).

    Each normally follows the one before; a jump is likelier where the time does not fit.
    """
    count = len(PLACES)
    differs = np.array([[SHAPE_COST * (kind != shape) for kind in PLACES] for shape in range(len(SHAPES))])
    cost, back = differs[shapes[0]].copy(), []
    for shape, step in zip(shapes[1:], np.diff(starts), strict=True):
        best = int(cost.argmin())
        odd = ODD_COST * (abs(step - CHIRP) > CHIRP // 4)
        follow, jump = np.roll(cost, 1) + odd, cost[best] + LOST_COST - odd
        jumps = jump < follow
        back.append(np.where(jumps, best, (np.arange(count) - 1) % count))
        cost = np.where(jumps, jump, follow) + differs[shape]
    path = [int(cost.argmin())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    path.reverse()
    return unrolled(path)


def unrolled(path: list[int]) -> list[int]:
    """Places counted on past the end of the circle, by the shorter way round."""
    count, out = len(PLACES), [path[0]]
    for place in path[1:]:
        step = (place - out[-1] + count // 2) % count - count // 2
        out.append(out[-1] + step)
    return out


def silence(samples: np.ndarray) -> float:
    """The longest run of blocks far below the level of the whole, in milliseconds."""
    levels = block_levels(samples)
    longest = current = 0
    for level in levels:
        current = current + 1 if level < QUIET * np.median(levels) else 0
        longest = max(longest, current)
    return longest * BLOCK * 1000 / RATE


def say(path: Path) -> None:
    """Writes the train as 48 kHz mono 16-bit WAV."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 48_000, 0, "NONE", ""))
        out.writeframes((train(48_000) * 32_767).astype(np.int16).tobytes())


def tell(path: Path) -> None:
    """Prints what a recording holds."""
    heard = hear(decode(path))
    print(f"{len(heard.chirps)} chirps heard, {len(heard.missing)} missing, {len(heard.repeated)} again, {heard.backwards} out of order")
    print(f"longest silence {heard.silence_ms:.0f} ms, largest step {heard.largest_step_ms:.0f} ms, level {heard.level_db:+.1f} dB")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("say", "hear"):
        sys.exit("usage: chirps.py say OUT.wav | chirps.py hear RECORDING")
    {"say": say, "hear": tell}[sys.argv[1]](Path(sys.argv[2]))
