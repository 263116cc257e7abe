// How a leg is replaced, against legs and a clock of the test's own: `node --test refresh.test.mjs`.

import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';
import { Refresh } from '../../relayd/web/refresh.js';

let now;
let calls;
let opens;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
  now = 1_000_000;
  calls = [];
  opens = [];
});

/** Lets everything that has been settled take effect. */
const settled = async () => {
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
};

async function pass(ms) {
  now += ms;
  mock.timers.tick(ms);
  await settled();
}

/** A refresh whose legs the test brings up; chance is always the worst. */
function refresh() {
  const note = (name) => (leg) => calls.push([name, leg]);
  const open = (order) => new Promise((resolve, reject) => opens.push({ order, resolve, reject }));
  return new Refresh({ open, beside: note('beside'), cut: note('cut'), drop: note('drop') }, { random: () => 1, clock: () => now });
}

const order = (ticket) => ({ url: '/v1/sessions/s/whep/en', ticket });

async function up(one, leg = 'new') {
  one.required(order('t1'), 60_000);
  opens.at(-1).resolve(leg);
  await settled();
}

const refused = (status, ticket) => Object.assign(new Error('no'), { status, ticket });

test('a new leg comes beside the old one, and takes its place when the relay says so', async () => {
  const one = refresh();
  one.required(order('t1'), 60_000);
  assert.equal(opens[0].order.ticket, 't1');
  opens[0].resolve('new');
  await settled();
  assert.deepEqual([calls, one.fresh], [[['beside', 'new']], 'new']);
  one.complete();
  assert.deepEqual(calls, [['beside', 'new'], ['cut', 'new']]);
  assert.deepEqual([one.phase, one.fresh], ['idle', null]);
});

test('the relay may be quicker than we are: it has moved before the leg is said to be up', async () => {
  const one = refresh();
  one.required(order('t1'), 60_000);
  one.complete();
  assert.deepEqual(calls, []);
  opens[0].resolve('new');
  await settled();
  assert.deepEqual(calls, [['beside', 'new'], ['cut', 'new']]);
});

test('several orders are one, and the newest ticket is the one that counts', async () => {
  const one = refresh();
  for (const ticket of ['t1', 't2', 't3']) one.required(order(ticket), 60_000);
  assert.equal(opens.length, 1);
  // The first ticket ended with the second order; the refusal of it is no refusal of the third.
  opens[0].reject(refused(403, 't1'));
  await settled();
  await pass(300);
  assert.equal(opens[1].order.ticket, 't3');
  opens[1].resolve('new');
  await settled();
  one.required(order('t4'), 60_000);
  assert.equal(opens.length, 2);
  assert.deepEqual(calls, [['beside', 'new']]);
});

test('it is tried again, with growing pauses, until the deadline and not after', async () => {
  const one = refresh();
  one.required(order('t1'), 2500);
  const pauses = [300, 600, 1200];
  for (const [index, pause] of pauses.entries()) {
    opens[index].reject(new Error('no path'));
    await settled();
    assert.equal(one.phase, 'waiting');
    await pass(pause - 1);
    assert.equal(opens.length, index + 1);
    await pass(1);
    assert.equal(opens.length, index + 2);
  }
  opens[3].reject(new Error('no path'));
  await settled();
  assert.equal(one.phase, 'idle');
  await pass(60_000);
  // The old leg is untouched: nothing was cut, nothing dropped.
  assert.deepEqual([opens.length, calls], [4, []]);
});

test('a ticket that is refused is not shown again', async () => {
  const one = refresh();
  one.required(order('t1'), 60_000);
  opens[0].reject(refused(403, 't1'));
  await settled();
  await pass(60_000);
  assert.deepEqual([one.phase, opens.length, calls], ['idle', 1, []]);
});

test('a new leg that goes before its time is replaced, and the old one stays', async () => {
  const one = refresh();
  await up(one);
  one.freshGone('another');
  assert.equal(one.phase, 'beside');
  one.freshGone('new');
  assert.deepEqual(calls, [['beside', 'new'], ['drop', 'new']]);
  await pass(300);
  opens[1].resolve('newer');
  await settled();
  one.complete();
  assert.deepEqual(calls.slice(2), [['beside', 'newer'], ['cut', 'newer']]);
});

test('an old leg that goes while the new one is there leaves it the place', async () => {
  const one = refresh();
  await up(one);
  assert.equal(one.oldGone(), true);
  assert.deepEqual(calls, [['beside', 'new'], ['cut', 'new']]);
  // What is said later of the leg that is in place is not ours.
  one.freshGone('new');
  one.complete();
  assert.equal(calls.length, 2);
});

test('an old leg that goes while the new one is on its way is waited for, and given up with it', async () => {
  const one = refresh();
  one.required(order('t1'), 60_000);
  assert.equal(one.oldGone(), true);
  opens[0].resolve('new');
  await settled();
  assert.deepEqual(calls, [['beside', 'new'], ['cut', 'new']]);

  const other = refresh();
  other.required(order('t1'), 60_000);
  assert.equal(other.oldGone(), true);
  opens[1].reject(new Error('no path'));
  await settled();
  assert.deepEqual(calls.slice(2), [['cut', null]]);
  assert.equal(other.phase, 'idle');
});

test('an old leg that goes when nothing is under way is somebody else\'s matter', async () => {
  const one = refresh();
  assert.equal(one.oldGone(), false);
  one.required(order('t1'), 60_000);
  opens[0].reject(new Error('no path'));
  await settled();
  assert.equal(one.phase, 'waiting');
  assert.equal(one.oldGone(), false);
});

test('what is stopped leaves nothing behind, also what comes up later', async () => {
  const one = refresh();
  await up(one);
  one.stop();
  assert.deepEqual(calls, [['beside', 'new'], ['drop', 'new']]);
  one.required(order('t2'), 60_000);
  one.stop();
  opens[1].resolve('late');
  await settled();
  assert.deepEqual(calls.at(-1), ['drop', 'late']);
  one.required(order('t3'), 60_000);
  assert.equal(opens[2].order.ticket, 't3');
});

test('a completion that nobody waits for changes nothing', () => {
  const one = refresh();
  one.complete();
  assert.deepEqual([one.phase, calls], ['idle', []]);
});
