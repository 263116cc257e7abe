// Which frames of a new connection may pass while an old one brings the same: `node --test splice.test.mjs`.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Splice } from '../../relayd/web/splice.js';

/** A frame of the speech by its number, at a clock that was at `start` when it began. */
function frame(number, start, length = 80) {
  const payload = new Uint8Array(length).map((_, i) => (number * 7 + i * (number + 3)) % 251);
  return { number, timestamp: (start + number * 960) >>> 0, payload: payload.buffer };
}

const numbers = (frames) => frames.map(({ number }) => number);
const OLD = 2 ** 32 - 50 * 960;
const NEW = 1000;

/** The old connection has brought frames 0 … 99, and its player is at `played`. */
function playing(played) {
  const splice = new Splice();
  for (let number = 0; number < 100; number += 1) splice.old(frame(number, OLD));
  if (played !== undefined) splice.played(frame(played, OLD).timestamp);
  return splice;
}

const feed = (splice, from, to, start = NEW) => {
  const passed = [];
  for (let number = from; number < to; number += 1) passed.push(...splice.fresh(frame(number, start)));
  return numbers(passed);
};

test('what is sent again passes from where the old player is, across the wrap of its clock', () => {
  assert.deepEqual(feed(playing(95), 10, 104), [95, 96, 97, 98, 99, 100, 101, 102, 103]);
});

test('the old player goes on while frames come again faster than it plays', () => {
  const splice = playing(20);
  const passed = [];
  for (let number = 0; number < 60; number += 1) {
    splice.played(frame(20 + Math.floor(number / 4), OLD).timestamp);
    passed.push(...splice.fresh(frame(number, NEW)));
  }
  assert.equal(passed[0].number, 26);
  assert.deepEqual(numbers(passed), Array.from({ length: 34 }, (_, i) => i + 26));
});

test('nothing passes before it is known where it belongs, and nothing is lost for that', () => {
  const splice = playing(10);
  assert.deepEqual(feed(splice, 50, 61), []);
  assert.deepEqual(feed(splice, 61, 63), [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62]);
});

test('what the old connection lost is not taken for something heard', () => {
  const splice = new Splice();
  for (let number = 0; number < 100; number += 1) if (number % 10 < 7) splice.old(frame(number, OLD));
  splice.played(frame(92, OLD).timestamp);
  assert.deepEqual(feed(splice, 70, 100), [92, 93, 94, 95, 96, 97, 98, 99]);
});

test('where the player does not say how far it is, the usual delay counts', () => {
  assert.deepEqual(feed(playing(), 80, 100), [96, 97, 98, 99]);
});

test('sound that repeats itself is not taken for what it repeats', () => {
  const splice = new Splice();
  // Frames 40 … 69 are 0 … 29 once more; what follows differs.
  for (let number = 0; number < 100; number += 1) splice.old({ ...frame(number, OLD), payload: sung(number) });
  splice.played(frame(66, OLD).timestamp);
  const passed = [];
  for (let number = 0; number < 72; number += 1) passed.push(...splice.fresh({ ...frame(number, NEW), payload: sung(number) }));
  assert.deepEqual(numbers(passed), [66, 67, 68, 69, 70, 71]);
});

const sung = (number) => frame(number >= 40 && number < 70 ? number - 40 : number, OLD).payload;

test('silence says nothing of the clocks', () => {
  const splice = new Splice();
  for (let number = 0; number < 50; number += 1) splice.old({ ...frame(number, OLD), payload: new ArrayBuffer(3) });
  for (let number = 0; number < 50; number += 1) {
    assert.deepEqual(splice.fresh({ ...frame(number, NEW), payload: new ArrayBuffer(3) }), []);
  }
});

test('one payload that is alike by chance is outvoted', () => {
  const splice = playing(95);
  assert.deepEqual(splice.fresh({ ...frame(5, 777), payload: frame(40, OLD).payload }), []);
  assert.deepEqual(feed(splice, 80, 98), [95, 96, 97]);
});

test('released, it goes by the few that it could compare', () => {
  const splice = playing(97);
  assert.deepEqual(feed(splice, 95, 100), []);
  assert.deepEqual(numbers(splice.release()), [97, 98, 99]);
  assert.deepEqual(feed(splice, 100, 102), [100, 101]);
});

test('released before anything fits, it lets everything pass from the newest frame that was kept back', () => {
  const splice = new Splice();
  assert.deepEqual(feed(splice, 0, 5), []);
  assert.deepEqual(numbers(splice.release()), [4]);
  assert.deepEqual(feed(splice, 5, 8), [5, 6, 7]);
  assert.deepEqual(splice.release(), []);
});

test('it keeps no more than it may', () => {
  const splice = new Splice();
  for (let number = 0; number < 5000; number += 1) assert.deepEqual(splice.fresh(frame(number, NEW)), []);
  assert.deepEqual(numbers(splice.release()), [4999]);
});
