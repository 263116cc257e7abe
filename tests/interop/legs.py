"""What came over one connection or two, packet by packet: what is missing, what came twice, and what it sounds like.

Two connections have SSRCs, numbers and clocks of their own. What they have in common is the payload: the relay forwards what
the publisher encoded, so equal payloads say by how much the two clocks differ, whatever the relay says about it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import av
import numpy as np

from audio import collect
from whip import Packet

FRAME = 960
SAME_FROM = 16  # payloads shorter than this are alike in any silence
HALF = 2**31


@dataclass(frozen=True)
class Stream:
    """The frames of one publisher as a listener got them, by their place in 20 ms frames from the first one."""

    payloads: dict[int, bytes]
    arrivals: list[int]

    @property
    def missing(self) -> list[int]:
        return sorted(set(range(max(self.payloads) + 1)) - set(self.payloads))

    @property
    def repeated(self) -> int:
        return sum(count - 1 for count in Counter(self.arrivals).values())

    @property
    def backwards(self) -> int:
        return sum(later < earlier for earlier, later in pairwise(self.arrivals))

    def sound(self) -> np.ndarray:
        """What a player makes of it that knows of both connections: decoded in order, silence where a frame is missing."""
        decoder = av.CodecContext.create("libopus", "r")
        decoder.sample_rate, decoder.layout = 48_000, "mono"
        frames = []
        for place in range(max(self.payloads) + 1):
            if place in self.payloads:
                frames += decoder.decode(av.Packet(self.payloads[place]))
            else:
                hole = av.AudioFrame.from_ndarray(np.zeros((1, FRAME), np.int16), format="s16", layout="mono")
                hole.sample_rate = 48_000
                frames.append(hole)
        return collect(frames)


def one_line(packets: list[Packet]) -> Stream:
    """One connection's packets; they must be one SSRC's, their timestamps affine in their numbers."""
    assert {packet.ssrc for packet in packets} == {packets[0].ssrc}, "the SSRC changed"
    first = packets[0]
    steps = [(packet.sequence - first.sequence + 2**15) % 2**16 - 2**15 for packet in packets]
    for packet, step in zip(packets, steps, strict=True):
        assert packet.timestamp == (first.timestamp + FRAME * step) % 2**32, f"{packet}: timestamps are not affine"
    return placed([(step, packet.payload) for packet, step in zip(packets, steps, strict=True)])


def one_after_the_other(connections: list[list[Packet]]) -> Stream:
    """The packets of a listener's connections, each of which took the place of the one before; each in itself is one line."""
    first, ahead, places = connections[0][0].timestamp, 0, []
    for old, new in pairwise([connections[0], *connections]):
        one_line(new)
        if new is not old:
            ahead += clocks_apart(old, new)
        ticks = [((packet.timestamp - first - ahead + HALF) % 2**32 - HALF, packet.payload) for packet in new]
        assert all(tick % FRAME == 0 for tick, _ in ticks), "the clocks differ by a part of a frame"
        places += [(tick // FRAME, payload) for tick, payload in ticks]
    return placed(places)


def clocks_apart(old: list[Packet], new: list[Packet]) -> int:
    """By how much the second connection's timestamps are ahead, from what came over both.

    Sound that repeats has equal payloads at other times, too: what counts is that none contradicts.
    """
    sent = {packet.timestamp: packet.payload for packet in old}
    stamps: dict[bytes, set[int]] = {}
    for packet in old:
        if len(packet.payload) >= SAME_FROM:
            stamps.setdefault(packet.payload, set()).add(packet.timestamp)
    found = Counter((packet.timestamp - stamp) % 2**32 for packet in new for stamp in stamps.get(packet.payload, ()))

    def contradicted(difference: int) -> bool:
        both = ((packet.payload, sent.get((packet.timestamp - difference) % 2**32)) for packet in new)
        return any(other is not None and other != payload for payload, other in both)

    fitting = [(count, difference) for difference, count in found.most_common() if not contradicted(difference)]
    assert fitting, "nothing came over both connections"
    (most, difference), *others = fitting
    assert not others or others[0][0] < most / 2, f"the two clocks are not one: {fitting}"
    return difference


def placed(frames: Iterable[tuple[int, bytes]]) -> Stream:
    frames = list(frames)
    least = min(place for place, _ in frames)
    payloads: dict[int, bytes] = {}
    for place, payload in frames:
        assert payloads.setdefault(place - least, payload) == payload, f"two frames at place {place}"
    return Stream(payloads, [place - least for place, _ in frames])
