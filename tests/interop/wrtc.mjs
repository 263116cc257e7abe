// A WHIP and WHEP client on libwebrtc, through @roamhq/wrtc.
//
//   node wrtc.mjs listen --url WHEP --seconds N --wav OUT.wav    hears N seconds, a second after the first sound
//   node wrtc.mjs publish --url WHIP --wav IN.wav                speaks until SIGTERM; 48 kHz mono
import fs from 'node:fs';
import process from 'node:process';
import { parseArgs } from 'node:util';
import wrtc from '@roamhq/wrtc';

const { RTCPeerConnection, nonstandard } = wrtc;
const RATE = 48_000;
const TEN_MS = RATE / 100;
const CONNECT_MS = 15_000;
// The jitter buffer has found its delay by then.
const SETTLE_CHUNKS = 100;

const { positionals: [role], values } = parseArgs({
  allowPositionals: true,
  options: { url: { type: 'string' }, seconds: { type: 'string' }, wav: { type: 'string' } },
});

/** Resolves with what `start(resolve, reject)` settles, or fails after a deadline. */
function within(ms, what, start) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
    start((value) => { clearTimeout(timer); resolve(value); }, reject);
  });
}

async function join(connection, url) {
  await connection.setLocalDescription(await connection.createOffer());
  await within(CONNECT_MS, 'the candidates', (resolve) => {
    const check = () => connection.iceGatheringState === 'complete' && resolve();
    connection.onicegatheringstatechange = check;
    check();
  });
  const reply = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/sdp' },
    body: connection.localDescription.sdp,
  });
  const text = await reply.text();
  if (reply.status !== 201) throw new Error(`${url}: ${reply.status} ${text}`);
  await connection.setRemoteDescription({ type: 'answer', sdp: text });
  await within(CONNECT_MS, 'the connection', (resolve, reject) => {
    const check = () => {
      if (connection.connectionState === 'connected') resolve();
      if (connection.connectionState === 'failed') reject(new Error('the connection failed'));
    };
    connection.onconnectionstatechange = check;
    check();
  });
  return new URL(reply.headers.get('location'), url);
}

async function leave(connection, location) {
  const reply = await fetch(location, { method: 'DELETE' });
  if (reply.status !== 204 && reply.status !== 200) throw new Error(`DELETE ${location}: ${reply.status}`);
  connection.close();
}

function writeWav(path, parts, rate) {
  const samples = Buffer.concat(parts);
  const head = Buffer.alloc(44);
  head.write('RIFF', 0);
  head.writeUInt32LE(36 + samples.length, 4);
  head.write('WAVEfmt ', 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * 2, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write('data', 36);
  head.writeUInt32LE(samples.length, 40);
  fs.writeFileSync(path, Buffer.concat([head, samples]));
}

/** What the receiver counted: tells a loss on the way from a late wake-up of this process. */
async function inbound(connection) {
  const report = [...(await connection.getStats()).values()].find((one) => one.type === 'inbound-rtp') ?? {};
  const names = ['packetsReceived', 'packetsLost', 'packetsDiscarded', 'concealedSamples', 'concealmentEvents', 'jitter'];
  return Object.fromEntries(names.map((name) => [name, report[name]]));
}

/** The first channel of interleaved samples, as bytes. */
function firstChannel({ samples, channelCount }) {
  const mono = channelCount === 1 ? samples : samples.filter((_, i) => i % channelCount === 0);
  return Buffer.from(Int16Array.from(mono).buffer);
}

async function listen() {
  const wanted = SETTLE_CHUNKS + Number(values.seconds) * 100;
  const connection = new RTCPeerConnection();
  const { receiver } = connection.addTransceiver('audio', { direction: 'recvonly' });
  const sink = new nonstandard.RTCAudioSink(receiver.track);
  const parts = [];
  let rate = RATE;
  const done = within((Number(values.seconds) + 40) * 1000, 'the recording', (resolve) => {
    sink.ondata = (data) => {
      if (parts.length === 0 && !data.samples.some((sample) => Math.abs(sample) > 32)) return;
      rate = data.sampleRate;
      parts.push(firstChannel(data));
      if (parts.length === wanted) resolve();
    };
  });
  const location = await join(connection, values.url);
  console.log('connected');
  await done;
  sink.stop();
  console.log(JSON.stringify(await inbound(connection)));
  writeWav(values.wav, parts.slice(SETTLE_CHUNKS), rate);
  await leave(connection, location);
}

async function publish() {
  const file = fs.readFileSync(values.wav);
  const bytes = file.subarray(file.indexOf('data') + 8);
  const speech = new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + (bytes.length & ~1)));
  const source = new nonstandard.RTCAudioSource();
  const connection = new RTCPeerConnection();
  connection.addTransceiver(source.createTrack(), { direction: 'sendonly' });
  const location = await join(connection, values.url);
  console.log('connected');
  const started = performance.now();
  let sent = 0;
  const pace = setInterval(() => {
    for (; sent * 10 <= performance.now() - started; sent += 1) {
      const samples = new Int16Array(TEN_MS);
      for (let i = 0; i < TEN_MS; i += 1) samples[i] = speech[(sent * TEN_MS + i) % speech.length];
      source.onData({ samples, sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: TEN_MS });
    }
  }, 5);
  await new Promise((resolve) => process.once('SIGTERM', resolve));
  clearInterval(pace);
  await leave(connection, location);
}

try {
  await { listen, publish }[role]();
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
