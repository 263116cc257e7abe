// The pages' events client against a socket and a clock of the test's own: `node --test events.test.mjs`.

import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';
import { Events, eventsUrl, pauseBefore } from '../../relayd/web/events.js';

const URL_ = 'ws://relay.test/v1/sessions/golden-eagle-427/events';
const WELCOME = { sessionId: 'golden-eagle-427', node: 'n', epoch: 1, heartbeatMs: 10000, resume: 'ticket-1', seq: 7, role: 'listen' };

class Socket extends EventTarget {
  sent = [];
  closed = false;

  constructor(url) {
    super();
    this.url = url;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  open() {
    this.dispatchEvent(new Event('open'));
  }

  say(t, d = {}, seq = undefined) {
    this.tell(JSON.stringify({ t, seq, ts: 0, d }));
  }

  tell(data) {
    this.dispatchEvent(Object.assign(new Event('message'), { data }));
  }

  end(code, reason = '') {
    this.dispatchEvent(Object.assign(new Event('close'), { code, reason }));
  }
}

let sockets;
let said;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
  sockets = [];
  said = [];
});

const last = () => sockets.at(-1);

/** A client whose sockets the test plays the relay for; chance is always the worst. */
function client(more = {}) {
  const connect = (url) => {
    sockets.push(new Socket(url));
    return last();
  };
  const events = new Events(URL_, { connect, random: () => 1, ...more });
  for (const name of ['up', 'down', 'stopped', 'event']) events.addEventListener(name, ({ detail }) => said.push([name, detail]));
  events.start();
  return events;
}

function welcomed(more = {}, welcome = WELCOME) {
  const events = client(more);
  last().open();
  last().say('welcome', welcome, welcome.seq);
  return events;
}

const names = () => said.map(([name, detail]) => (name === 'event' ? detail.t : name));

test('the address follows the page', () => {
  const page = (protocol) => ({ protocol, host: 'relay.test:8080' });
  assert.equal(eventsUrl('a b', page('http:')), 'ws://relay.test:8080/v1/sessions/a%20b/events');
  assert.equal(eventsUrl('a', page('https:')), 'wss://relay.test:8080/v1/sessions/a/events');
});

test('the first frame is a hello with the token, if there is one', () => {
  client({ token: () => 'eyJ' });
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: { token: 'eyJ' } }]);
  client();
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: {} }]);
  assert.ok(!last().url.includes('eyJ'));
});

test('the hello names the media connection, and another one is named at once, without missing anything', () => {
  let leg = null;
  const events = welcomed({ leg: () => leg });
  events.legChanged();
  assert.equal(sockets.length, 1);
  leg = 'leg-1';
  events.legChanged();
  assert.equal(sockets.length, 2);
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: { resume: 'ticket-1', leg: 'leg-1', seq: 7 } }]);
  last().say('welcome', { ...WELCOME, resume: 'ticket-2' }, 7);
  events.legChanged();
  assert.equal(sockets.length, 2);
  // A page that stops listening has no leg: nothing is asked for anew.
  leg = null;
  events.legChanged();
  assert.equal(sockets.length, 2);
  assert.deepEqual(names(), ['up', 'up']);
});

test('it is up with the welcome, and tells what comes after it', () => {
  const events = welcomed();
  assert.equal(events.up, true);
  last().say('sessionJoined', { speakerConnected: false });
  last().say('speakerReady', { language: 'en' }, 8);
  last().say('heartbeatAck', {}, 8);
  last().say('heartbeat', {}, 8);
  assert.deepEqual(names(), ['up', 'sessionJoined', 'speakerReady']);
  assert.equal(events.seq, 8);
});

test('what cannot be read is passed over', () => {
  welcomed();
  for (const data of ['', '{', '[]', 'null', '{"t":5}', '7']) last().tell(data);
  assert.deepEqual(names(), ['up']);
});

test('a lost connection is resumed at once, after the last event that came', () => {
  welcomed({ token: () => 'eyJ' });
  last().say('listenerJoined', { language: 'en', listeners: 1 }, 9);
  last().end(1006);
  assert.equal(sockets.length, 1);
  mock.timers.tick(0);
  assert.equal(sockets.length, 2);
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: { resume: 'ticket-1', seq: 9 } }]);
  // The welcome names the newest; what lies between is still to come, and is what a second loss must ask for.
  last().say('welcome', { ...WELCOME, resume: 'ticket-2', seq: 12, resumed: true }, 9);
  last().say('listenerJoined', { language: 'en', listeners: 2 }, 10);
  last().end(1006);
  mock.timers.tick(300);
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: { resume: 'ticket-2', seq: 10 } }]);
});

test('a relay that was restarted counts anew', () => {
  const events = welcomed();
  last().end(1006);
  mock.timers.tick(0);
  last().open();
  last().say('welcome', { ...WELCOME, epoch: 2, seq: 1, resumed: false }, 1);
  last().say('sessionJoined', { speakerConnected: false }, 1);
  assert.equal(events.seq, 1);
  last().say('resync', { snapshot: {} }, 300);
  assert.equal(events.seq, 300);
});

test('pauses grow to five seconds, each anywhere below', () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 60].map((n) => pauseBefore(n, () => 1)), [0, 300, 600, 1200, 2400, 4800, 5000, 5000]);
  assert.equal(pauseBefore(4, () => 0.25), 600);
  client();
  for (const pause of [0, 300, 600, 1200, 2400, 4800, 5000]) {
    const before = sockets.length;
    last().end(1006);
    if (pause) {
      mock.timers.tick(pause - 1);
      assert.equal(sockets.length, before, `not before ${pause} ms`);
    }
    mock.timers.tick(pause ? 1 : 0);
    assert.equal(sockets.length, before + 1, `after ${pause} ms`);
  }
});

test('a relay that welcomes and hangs up does not get a storm', () => {
  client();
  const pauses = [];
  for (let i = 0; i < 6; i += 1) {
    last().open();
    last().say('welcome', WELCOME);
    last().end(4000);
    const before = sockets.length;
    let waited = 0;
    for (; sockets.length === before; waited += 100) mock.timers.tick(waited ? 100 : 0);
    pauses.push(waited - 100);
  }
  assert.deepEqual(pauses, [0, 300, 600, 1200, 2400, 4800]);
});

test('after ten good seconds the next loss is tried again at once', () => {
  client();
  for (let i = 0; i < 5; i += 1) {
    last().end(1006);
    mock.timers.tick(5000);
  }
  last().open();
  last().say('welcome', WELCOME);
  mock.timers.tick(9000);
  last().say('heartbeat');
  mock.timers.tick(1000);
  last().end(1006);
  const before = sockets.length;
  mock.timers.tick(0);
  assert.equal(sockets.length, before + 1);
});

for (const code of [4004, 4006, 4010, 4012]) {
  test(`${code} is final`, () => {
    const events = client({ token: () => 'eyJ' });
    last().open();
    last().end(code, 'no');
    mock.timers.tick(60000);
    assert.equal(sockets.length, 1);
    assert.deepEqual(said, [['stopped', { code, reason: 'no' }]]);
    events.retryNow();
    assert.equal(sockets.length, 1);
  });
}

test('a ticket that is too old gives way to the token, once', () => {
  welcomed({ token: () => 'eyJ' });
  last().end(1006);
  mock.timers.tick(0);
  last().open();
  last().end(4004);
  mock.timers.tick(300);
  last().open();
  assert.deepEqual(last().sent, [{ t: 'hello', d: { token: 'eyJ', seq: 7 } }]);
  last().end(4004);
  assert.equal(names().at(-1), 'stopped');
});

test('an ended token during the connection is final', () => {
  welcomed({ token: () => 'eyJ' });
  last().end(1006);
  mock.timers.tick(0);
  last().open();
  last().say('welcome', WELCOME);
  last().end(4004);
  mock.timers.tick(60000);
  assert.equal(sockets.length, 2);
  assert.deepEqual(said.at(-1), ['stopped', { code: 4004, reason: '' }]);
});

for (const code of [1001, 1006, 1009, 4000, 4001, 4003, 4005, 4009, 4015]) {
  test(`${code} is tried again`, () => {
    welcomed();
    last().end(code);
    mock.timers.tick(0);
    assert.equal(sockets.length, 2);
  });
}

test('4008 backs off before it resumes', () => {
  welcomed();
  last().end(4008);
  mock.timers.tick(1199);
  assert.equal(sockets.length, 1);
  mock.timers.tick(1);
  assert.equal(sockets.length, 2);
});

test('4013 is followed at once, and only to the same origin', () => {
  for (const [reason, url] of [
    ['', URL_],
    ['draining', URL_],
    ['ws://relay.test/v1/sessions/golden-eagle-427/events?node=b', `${URL_}?node=b`],
    ['{"url":"ws://relay.test/b"}', 'ws://relay.test/b'],
    ['ws://elsewhere.test/b', URL_],
    ['{"url":"ws://elsewhere.test/b"}', URL_],
  ]) {
    const events = client();
    last().end(1006); // an earlier failure must not delay it
    mock.timers.tick(0);
    last().open();
    last().say('welcome', WELCOME);
    last().end(4013, reason);
    const before = sockets.length;
    mock.timers.tick(0);
    assert.deepEqual([sockets.length, last().url], [before + 1, url], reason);
    events.stop();
  }
});

test('it beats every ten seconds with the last number', () => {
  welcomed();
  last().say('trackAdded', { language: 'de' }, 8);
  mock.timers.tick(10000);
  last().say('heartbeatAck');
  mock.timers.tick(10000);
  assert.deepEqual(last().sent.slice(1), [
    { t: 'heartbeat', d: { seq: 8 } },
    { t: 'heartbeat', d: { seq: 8 } },
  ]);
});

test('25 silent seconds are a dead connection', () => {
  welcomed();
  mock.timers.tick(20000);
  last().say('heartbeat');
  mock.timers.tick(24999);
  assert.equal(sockets[0].closed, false);
  mock.timers.tick(1);
  assert.equal(sockets[0].closed, true);
  mock.timers.tick(0);
  assert.equal(sockets.length, 2);
  assert.deepEqual(names(), ['up', 'down']);
});

test('a socket that never opens is given up', () => {
  client();
  mock.timers.tick(8000);
  mock.timers.tick(0);
  assert.deepEqual([sockets.length, sockets[0].closed], [2, true]);
});

test('a left socket says nothing any more', () => {
  const events = welcomed();
  const old = last();
  old.end(1006);
  mock.timers.tick(0);
  old.say('sessionEnded', {}, 99);
  assert.equal(events.seq, 7);
  assert.ok(!names().includes('sessionEnded'));
});

test('a new token goes in band while it is up', () => {
  const events = client();
  events.refreshToken('early');
  last().open();
  assert.equal(last().sent.length, 1);
  last().say('welcome', WELCOME);
  events.refreshToken('eyJ');
  assert.deepEqual(last().sent.at(-1), { t: 'token.refresh', d: { token: 'eyJ' } });
});

test('stopped, it stays so, and says nothing', () => {
  const events = welcomed();
  events.stop();
  mock.timers.tick(60000);
  assert.deepEqual([sockets.length, last().closed, names()], [1, true, ['up']]);
});
