// Two connections bring the same frames, the new one some of them again: which of its frames may pass, so that its player
// begins where the old one's is. Pure; frames come in and go out as `{timestamp, payload}`.
//
// The two have clocks of their own. What they have in common is the payload: equal ones say how far the clocks are apart.
// Sound that repeats has equal ones at other times, too: it takes a run of them, and none that contradicts.

const REMEMBERED = 1500; // half a minute
const HELD = 500;
// A payload shorter than this is alike in any silence.
const SPEAKS_FROM = 16;
const AGREEING = 12;
// How many must do once nothing more can be compared.
const AGREEING_AT_THE_END = 2;
// How far a player usually is behind what arrives, in ticks of 48 kHz, where it does not say.
const USUAL_DELAY = 2880;

export class Splice {
  #stamps = new Map();
  #marks = new Map();
  #newest = null;
  #played = null;
  #votes = new Map();
  #apart = null;
  #held = [];
  #open = false;

  /** A frame that came by the old connection. */
  old({ timestamp, payload }) {
    if (this.#newest === null || after(timestamp, this.#newest) > 0) this.#newest = timestamp;
    const mark = fingerprint(payload);
    remember(this.#marks, timestamp, mark);
    // One that comes more than once says nothing.
    if (payload.byteLength >= SPEAKS_FROM) remember(this.#stamps, mark, this.#stamps.has(mark) ? null : timestamp);
  }

  /** How far the old connection's player is, by its timestamps. */
  played(timestamp) {
    this.#played = timestamp;
  }

  /** A frame of the new connection; answers with those that may pass now, in order. */
  fresh(frame) {
    if (this.#open) return [frame];
    this.#held.push({ ...frame, mark: fingerprint(frame.payload) });
    if (this.#held.length > HELD) this.#held.shift();
    this.#vote(this.#held.at(-1));
    this.#apart ??= this.#agreed(AGREEING);
    return this.#passing();
  }

  /** The old connection brings nothing more: whatever comes passes, from where its player is or, if unknown, from now. */
  release() {
    this.#apart ??= this.#agreed(AGREEING_AT_THE_END);
    const passing = this.#open || this.#apart === null ? this.#held.slice(-1) : this.#passing();
    this.#held = [];
    this.#open = true;
    return passing;
  }

  /** What is not heard yet of all that was kept back, if that is known. */
  #passing() {
    if (this.#apart === null) return [];
    const place = this.#played ?? this.#newest - USUAL_DELAY;
    const first = this.#held.findIndex(({ timestamp }) => after(timestamp - this.#apart, place) >= 0);
    const passing = first < 0 ? [] : this.#held.slice(first);
    this.#open = first >= 0;
    this.#held = [];
    return passing;
  }

  #vote({ timestamp, mark }) {
    const stamp = this.#stamps.get(mark) ?? null;
    if (stamp === null) return;
    const apart = (timestamp - stamp) >>> 0;
    this.#votes.set(apart, (this.#votes.get(apart) ?? 0) + 1);
  }

  /** The distance that so many frames agree on and none contradicts, or null. */
  #agreed(enough) {
    const fitting = [...this.#votes].filter(([apart, votes]) => votes >= enough && !this.#contradicted(apart));
    return fitting.sort(([, one], [, other]) => other - one)[0]?.[0] ?? null;
  }

  #contradicted(apart) {
    return this.#held.some(({ timestamp, mark }) => (this.#marks.get((timestamp - apart) >>> 0) ?? mark) !== mark);
  }
}

/** Sets a value in a map that forgets the oldest. */
function remember(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > REMEMBERED) map.delete(map.keys().next().value);
}

/** By how much one timestamp is after another, across the wrap. */
const after = (one, other) => (one - other) | 0;

/** A payload as a number and its length (FNV-1a). */
function fingerprint(payload) {
  let hash = 0x811c9dc5;
  for (const byte of new Uint8Array(payload)) hash = Math.imul(hash ^ byte, 0x01000193);
  return (hash >>> 0) * 0x800 + Math.min(payload.byteLength, 0x7ff);
}
