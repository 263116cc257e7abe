"""The comparison itself: it passes what is right and notices every damage that a relay could do."""

import numpy as np
import pytest

from audio import FRAME, RATE, compare, faults


def recording(speech: np.ndarray) -> np.ndarray:
    """Ten seconds from somewhere in the middle, past the end and round again, with silence before."""
    start = int(0.6 * len(speech))
    return np.concatenate([np.zeros(RATE // 3), np.tile(speech, 2)[start : start + 10 * RATE]])


def muted(samples: np.ndarray, every: float, length: float) -> np.ndarray:
    damaged = samples.copy()
    for at in range(RATE, len(damaged), int(every * RATE)):
        damaged[at : at + int(length * RATE)] = 0
    return damaged


def frames_in_reverse_pairs(samples: np.ndarray) -> np.ndarray:
    whole = samples[: len(samples) // (2 * FRAME) * 2 * FRAME].reshape(-1, 2, FRAME)
    return whole[:, ::-1, :].reshape(-1)


def noisy(samples: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(7).normal(size=len(samples))
    return samples + noise * np.sqrt((samples**2).mean())


def frames_dropped(samples: np.ndarray) -> np.ndarray:
    whole = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return whole[np.random.default_rng(7).random(len(whole)) > 0.15].reshape(-1)


def test_the_speech_itself_is_without_fault(speech):
    result = compare(speech, recording(speech))
    assert faults(result, 8) == []
    assert result.stoi > 0.99
    assert abs(result.level_db) < 0.2


def test_a_slow_drift_is_not_a_fault(speech):
    heard = recording(speech)
    # A receiver with a clock that is 300 ppm fast.
    stretched = np.interp(np.arange(0, len(heard), 1.0003), np.arange(len(heard)), heard)
    assert faults(compare(speech, stretched), 8) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda heard, _: heard * 0.3, id="too quiet"),
        pytest.param(lambda heard, _: muted(heard, 3, 0.3), id="gaps of 300 ms"),
        pytest.param(lambda heard, _: muted(heard, 0.35, 0.04), id="two frames lost three times a second"),
        pytest.param(lambda heard, _: noisy(heard), id="noise as loud as the speech"),
        pytest.param(lambda heard, _: frames_in_reverse_pairs(heard), id="frames out of order"),
        pytest.param(lambda heard, _: frames_dropped(heard), id="frames left out"),
        pytest.param(lambda heard, _: heard[: 5 * RATE], id="ends too early"),
        pytest.param(lambda heard, _: heard[::-1], id="backwards"),
        pytest.param(lambda heard, _: heard * 0, id="silence"),
        pytest.param(lambda _, other: recording(other), id="another language"),
    ],
)
def test_damage_is_noticed(speech, other_speech, damage):
    result = compare(speech, damage(recording(speech), other_speech))
    assert faults(result, 8) != [], result
