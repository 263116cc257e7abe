"""The packet bookkeeping itself: what is missing, repeated or out of line over two connections is told."""

import os

import pytest

from legs import one_after_the_other, one_line
from whip import Packet

SAID = [os.urandom(60) for _ in range(200)]


def packets(first: int, last: int, ssrc: int, sequence: int, timestamp: int) -> list[Packet]:
    """Those frames on a connection whose first frame of all would have this number and time."""
    return [
        Packet(ssrc, (sequence + place) % 2**16, (timestamp + 960 * place) % 2**32, SAID[place]) for place in range(first, last)
    ]


OLD = packets(0, 100, 1, 65_480, 2**32 - 4000)


def test_one_connection_in_line_is_whole_across_every_wrap():
    stream = one_line(OLD)
    assert (stream.missing, stream.repeated, stream.backwards) == ([], 0, 0)
    assert stream.payloads == dict(enumerate(SAID[:100]))


def test_holes_repeats_and_disorder_are_told():
    stream = one_line([*OLD[:10], *OLD[12:20], OLD[19], *OLD[21:30], OLD[20], *OLD[30:]])
    assert (stream.missing, stream.repeated, stream.backwards) == ([10, 11], 1, 1)


@pytest.mark.parametrize("change", [{"ssrc": 2}, {"timestamp": 7}])
def test_what_is_out_of_line_is_refused(change):
    with pytest.raises(AssertionError):
        one_line([*OLD, Packet(**{"ssrc": 1, "sequence": (65_480 + 100) % 2**16, "timestamp": 0} | change)])


def test_three_connections_are_put_together_by_what_they_have_in_common():
    second, third = packets(90, 150, 7, 100, 77), packets(145, 200, 9, 65_500, 2**31)
    stream = one_after_the_other([OLD, second, third])
    assert (stream.missing, stream.repeated) == ([], 15)
    assert stream.payloads == dict(enumerate(SAID))


def test_a_hole_between_two_connections_is_told():
    lost = packets(90, 150, 7, 100, 77)
    del lost[15:18]
    assert one_after_the_other([OLD, lost]).missing == [105, 106, 107]


def test_connections_of_different_speech_are_refused():
    foreign = [Packet(7, place, 960 * place, os.urandom(60)) for place in range(50)]
    with pytest.raises(AssertionError):
        one_after_the_other([OLD, foreign])
