// What the pages know of a session, event by event: `node --test session.test.mjs`.

import assert from 'node:assert/strict';
import test from 'node:test';
import { applyEvent } from '../../relayd/web/session.js';

const track = (language, speakerConnected = false, listeners = 0) => ({ language, speakerConnected, listeners });
const CREATED = Object.freeze({
  sessionId: 'golden-eagle-427',
  status: 'created',
  sourceLanguage: 'en',
  languages: ['en', 'es'],
  speakerConnected: false,
  listeners: 0,
  tracks: [track('en'), track('es')],
});
const after = (...events) => events.reduce((session, [t, d]) => applyEvent(session, { t, d }), CREATED);

test('the speaker begins the session, an interpreter does not', () => {
  const active = after(['speakerReady', { language: 'en' }]);
  assert.equal(active.status, 'active');
  assert.equal(active.speakerConnected, true);
  assert.deepEqual(active.tracks, [track('en', true), track('es')]);
  const interpreted = after(['speakerReady', { language: 'es' }]);
  assert.equal(interpreted.status, 'created');
  assert.equal(interpreted.speakerConnected, false);
  assert.deepEqual(interpreted.tracks, [track('en'), track('es', true)]);
});

test('a speaker who leaves leaves the session as it is', () => {
  const left = after(['speakerReady', { language: 'en' }], ['speakerLeft', { language: 'en', lingerSeconds: 60 }]);
  assert.deepEqual([left.status, left.speakerConnected], ['active', false]);
});

test('pause, resume and end are its status', () => {
  assert.equal(after(['speakerReady', { language: 'en' }], ['sessionPaused', {}]).status, 'paused');
  // What comes late from a speaker does not end a pause.
  assert.equal(after(['sessionPaused', {}], ['speakerReady', { language: 'en' }]).status, 'paused');
  assert.equal(after(['sessionPaused', {}], ['sessionResumed', {}]).status, 'active');
  assert.equal(after(['sessionEnded', { reason: 'deleted' }]).status, 'ended');
});

test('listeners are summed over the languages', () => {
  const joined = after(
    ['listenerJoined', { language: 'en', listeners: 1 }],
    ['listenerJoined', { language: 'es', listeners: 3 }],
    ['listenerLeft', { language: 'es', listeners: 2 }],
  );
  assert.equal(joined.listeners, 3);
  assert.deepEqual(joined.tracks.map(({ listeners }) => listeners), [1, 2]);
});

test('a language comes once and goes with its listeners', () => {
  const more = after(['trackAdded', { language: 'de' }], ['trackAdded', { language: 'de' }]);
  assert.deepEqual(more.languages, ['en', 'es', 'de']);
  assert.deepEqual(more.tracks[2], track('de'));
  const fewer = after(['listenerJoined', { language: 'es', listeners: 3 }], ['trackRemoved', { language: 'es' }]);
  assert.deepEqual([fewer.languages, fewer.listeners, fewer.tracks.length], [['en'], 0, 1]);
});

test('a snapshot replaces what was known, and keeps what it does not speak of', () => {
  const known = { ...CREATED, pages: { listen: '/listen/golden-eagle-427' } };
  for (const t of ['sessionJoined', 'resync']) {
    const fresh = applyEvent(known, { t, d: { status: 'paused', listeners: 7 } });
    assert.deepEqual([fresh.status, fresh.listeners, fresh.pages], ['paused', 7, known.pages]);
  }
  assert.equal(applyEvent(known, { t: 'resync', d: { snapshot: { listeners: 9 } } }).listeners, 9);
});

test('what says nothing of the session changes nothing', () => {
  for (const t of ['framesLost', 'connectionWarning', 'tokenRefreshed', 'error', 'neverHeardOf']) {
    assert.equal(applyEvent(CREATED, { t, d: { language: 'en' } }), CREATED);
  }
  assert.equal(applyEvent(CREATED, { t: 'neverHeardOf' }), CREATED);
});
