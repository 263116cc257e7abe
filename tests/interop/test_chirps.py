"""The chirp train itself: what is cut, repeated, moved or silenced is told, and what is right is told to be right."""

import av
import numpy as np
import pytest

from audio import RATE, collect
from chirps import CHIRP, NAMED_BY, PLACES, SHAPES, chirp, hear, match, train

TRAIN = train()


def said(first: int, last: int) -> np.ndarray:
    """The chirps from one place to the other."""
    return np.tile(TRAIN, 3)[first * CHIRP : last * CHIRP]


def through_opus(samples: np.ndarray) -> np.ndarray:
    """As an encoder of 64 kb/s, in the mode for music, and a decoder leave it."""
    loud = np.interp(np.arange(0, len(samples), 1 / 3), np.arange(len(samples)), samples)
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = 48_000, "mono", "s16", 64_000
    encoder.options = {"application": "lowdelay"}
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    frames = []
    for at in range(0, len(loud) - 959, 960):
        block = (loud[at : at + 960] * 32_767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, at
        frames += [heard for packet in encoder.encode(frame) for heard in decoder.decode(packet)]
    return collect(frames)


def test_every_run_of_shapes_names_one_place():
    assert len(PLACES) == len(SHAPES) ** NAMED_BY
    circle = PLACES + PLACES[: NAMED_BY - 1]
    assert len({tuple(circle[at : at + NAMED_BY]) for at in range(len(PLACES))}) == len(PLACES)


def test_each_filter_answers_to_its_own_shape():
    for one in range(len(SHAPES)):
        for other in range(len(SHAPES)):
            answer = match(np.pad(chirp(one), CHIRP), chirp(other)).max()
            assert answer > 0.99 if one == other else answer < 0.45, (one, other, answer)


@pytest.mark.parametrize("first", [0, 137, 620])
def test_a_whole_train_is_heard_whole(first):
    heard = hear(np.concatenate([np.zeros(5000), said(first, first + 60), np.zeros(3000)]))
    assert heard.chirps == list(range(first, first + 60))
    assert (heard.missing, heard.repeated, heard.backwards) == ([], [], 0)
    assert heard.largest_step_ms < 0.2
    assert heard.silence_ms <= 5
    assert abs(heard.times[0] - 5000 / RATE) < 1e-3
    assert abs(heard.level_db) < 0.2


def test_a_codec_does_not_hide_it():
    heard = hear(through_opus(TRAIN))
    assert heard.chirps == list(range(heard.chirps[0], heard.chirps[0] + len(heard.chirps)))
    assert len(heard.chirps) >= len(PLACES) - 1
    assert heard.largest_step_ms < 1
    assert heard.silence_ms <= 5


def test_noise_and_a_slow_clock_do_not_hide_it():
    noise = 0.05 * np.random.default_rng(3).normal(size=40 * CHIRP)
    stretched = np.interp(np.arange(0, 40 * CHIRP - 1, 1.0003), np.arange(40 * CHIRP), said(9, 49) + noise)
    heard = hear(stretched)
    assert heard.chirps == list(range(9, 9 + len(heard.chirps))) and len(heard.chirps) >= 39
    assert heard.largest_step_ms < 1


@pytest.mark.parametrize("lost", [1, 3, 17])
def test_chirps_cut_out_are_missed_though_no_silence_tells(lost):
    heard = hear(np.concatenate([said(10, 40), said(40 + lost, 80)]))
    # Where equal shapes meet, which of them is gone cannot be told; how many are can.
    assert len(heard.missing) == lost and set(heard.missing) <= set(range(36, 44 + lost))
    assert (heard.repeated, heard.silence_ms <= 5) == ([], True)
    assert abs(heard.largest_step_ms - 100 * lost) < 1


@pytest.mark.parametrize("again", [1, 2, 12])
def test_chirps_heard_again_are_told(again):
    heard = hear(np.concatenate([said(10, 40), said(40 - again, 80)]))
    assert len(heard.repeated) == again and set(heard.repeated) <= set(range(36 - again, 44))
    assert heard.missing == []
    assert heard.backwards == 1
    assert abs(heard.largest_step_ms - 100 * again) < 1


@pytest.mark.parametrize("milliseconds", [20, 60, 250, 900])
def test_silence_is_measured_wherever_it_falls(milliseconds):
    at = 30 * CHIRP + CHIRP // 3
    pause = np.zeros(milliseconds * RATE // 1000)
    both = np.concatenate([said(0, 60)[:at], pause, said(0, 60)[at:]])
    heard = hear(both)
    assert abs(heard.silence_ms - milliseconds) <= 10
    assert heard.repeated == [] and set(heard.missing) <= {30}
    assert abs(heard.delays_ms[-1] - milliseconds) < 1


@pytest.mark.parametrize("milliseconds", [20, 60, 200])
def test_silence_in_place_of_sound_is_measured_too(milliseconds):
    muted = said(0, 60)
    at = 30 * CHIRP + CHIRP // 3
    muted[at : at + milliseconds * RATE // 1000] = 0
    heard = hear(muted)
    assert abs(heard.silence_ms - milliseconds) <= 10
    assert heard.repeated == [] and heard.backwards == 0 and set(heard.missing) <= {30, 31, 32}


@pytest.mark.parametrize("milliseconds", [-15, -8, 8, 15])
def test_a_chirp_that_a_jitter_buffer_bends_is_heard(milliseconds):
    bend, at = milliseconds * RATE // 1000, 30 * CHIRP + CHIRP // 2
    heard = hear(np.concatenate([said(0, 60)[:at], said(0, 60)[at - bend :]]))
    assert (heard.missing, heard.repeated, heard.backwards) == ([], [], 0)
    assert abs(heard.delays_ms[-1] - milliseconds) < 1


def test_half_a_chirp_left_out_is_a_step():
    heard = hear(np.concatenate([said(0, 30), said(30, 60)[CHIRP // 2 :]]))
    assert heard.chirps[-1] == 59 and heard.repeated == []
    assert abs(heard.delays_ms[-1] + 50) < 1


@pytest.mark.parametrize("other", ["silence", "noise", "speech"])
def test_what_is_no_train_is_not_heard_as_one(other, speech):
    samples = {"silence": np.zeros(5 * RATE), "noise": 0.2 * np.random.default_rng(5).normal(size=5 * RATE), "speech": speech[: 5 * RATE]}
    assert len(hear(samples[other]).chirps) <= 2


def test_pieces_out_of_order_are_told():
    heard = hear(np.concatenate([said(0, 20), said(40, 60), said(20, 40), said(60, 80)]))
    assert heard.backwards == 1 and heard.missing == [] and heard.repeated == []
