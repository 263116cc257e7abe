// The pages' description editing, outside a browser: `node --test sdp.test.mjs`.

import assert from 'node:assert/strict';
import test from 'node:test';
import { iceFragment, restartedAnswer, speechAnswer } from '../../relayd/web/sdp.js';

const lines = (...all) => `${all.join('\r\n')}\r\n`;
const ANSWER = lines(
  'v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 't=0 0', 'a=group:BUNDLE 0', 'a=ice-lite',
  'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'c=IN IP4 0.0.0.0', 'a=mid:0', 'a=ice-ufrag:old', 'a=ice-pwd:oldpassword',
  'a=candidate:1 1 udp 1 127.0.0.1 1000 typ host', 'a=end-of-candidates', 'a=rtpmap:111 opus/48000/2',
  'a=fmtp:111 minptime=10;usedtx=1',
);

test('the answer asks for error correction and no silence suppression, and keeps what it said', () => {
  assert.match(speechAnswer(ANSWER), /^a=fmtp:111 minptime=10;usedtx=0;useinbandfec=1\r$/m);
  assert.equal(speechAnswer(ANSWER).split('\r\n').length, ANSWER.split('\r\n').length);
});

test('an answer without settings gets a line of them, one without Opus stays', () => {
  const bare = ANSWER.replace(/a=fmtp.*\r\n/, '');
  assert.match(speechAnswer(bare), /a=rtpmap:111 opus\/48000\/2\r\na=fmtp:111 useinbandfec=1;usedtx=0\r\n/);
  const other = ANSWER.replace('opus', 'PCMU');
  assert.equal(speechAnswer(other), other);
});

test('a fragment names the first section and carries the candidates', () => {
  const body = iceFragment(ANSWER, ['a=candidate:2 1 udp 1 abc.local 9 typ host', 'a=end-of-candidates']);
  assert.equal(
    body,
    lines('a=group:BUNDLE 0', 'a=ice-ufrag:old', 'a=ice-pwd:oldpassword', 'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'a=mid:0',
      'a=candidate:2 1 udp 1 abc.local 9 typ host', 'a=end-of-candidates'),
  );
});

test('a restart replaces credentials and candidates and nothing else', () => {
  const fragment = lines('a=ice-lite', 'a=ice-ufrag:new', 'a=ice-pwd:newpassword', 'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'a=mid:0',
    'a=candidate:1 1 udp 1 127.0.0.1 2000 typ host', 'a=end-of-candidates');
  const answer = restartedAnswer(ANSWER, fragment);
  assert.doesNotMatch(answer, /old|1000 typ/);
  assert.match(answer, /a=mid:0\r\na=ice-ufrag:new\r\na=ice-pwd:newpassword\r\na=candidate:1 1 udp 1 127.0.0.1 2000 typ host\r\n/);
  assert.equal(answer.split('\r\n').length, ANSWER.split('\r\n').length);
});
