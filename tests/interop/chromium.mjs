// Drives headless Chromium through the relay's own pages.
//
//   node chromium.mjs speak  --page URL --wav FILE --seconds N --out STATS.json [--loop on] [--lead 0] [--processing off]
//   node chromium.mjs listen --page URL --wav OUT.wav --seconds N --stats OUT.json [--count 1] [--wait 20]
//
// `speak` feeds the fake microphone with FILE (16-bit PCM WAV) over and over, or once after `lead` seconds of silence with
// `--loop off`, and stays on air N seconds. `--processing on` leaves the browser's noise suppression and level control on.
// `listen` opens `count` pages and writes what each hears: 48 kHz mono float, OUT.wav, or OUT-1.wav … OUT-N.wav; it counts
// N seconds from the moment all are connected. Both print one JSON line per step (`onAir`, `listening`, `done`) on stdout.
// Exit code 1 and a message on stderr when the page does not get there.

import { writeFileSync } from 'node:fs';
import { expectText, fakeMicrophone, options, withBrowser, writeFloatWav } from './browser.mjs';

const RATE = 48000;

async function speak(given) {
  const want = options({ page: undefined, wav: undefined, seconds: undefined, out: undefined, loop: 'on', lead: '0', processing: 'off' }, given);
  const flags = fakeMicrophone(want.wav, { loop: want.loop === 'on', leadSeconds: Number(want.lead) });
  await withBrowser({ flags }, async (context) => {
    const page = await open(context, want.page);
    if (want.processing === 'off') await page.locator('#processing').uncheck();
    await page.locator('#start').click();
    await expectText(page, '#state', /On air/, 20000);
    say({ event: 'onAir', page: page.url() });
    await page.waitForTimeout(Number(want.seconds) * 1000);
    const [stats] = await connectionStats(page);
    await expectText(page, '#state', /On air/);
    writeFileSync(want.out, JSON.stringify(stats, null, 2));
    await page.locator('#stop').click();
    await page.waitForTimeout(200);
    say({ event: 'done', ...summary(stats, 'outbound-rtp', ['packetsSent', 'bytesSent']) });
  });
}

async function listen(given) {
  const want = options({ page: undefined, wav: undefined, seconds: undefined, stats: undefined, count: '1', wait: '20' }, given);
  const count = Number(want.count);
  await withBrowser({}, async (context) => {
    const pages = [];
    for (let i = 0; i < count; i += 1) pages.push(await startListening(context, want.page));
    for (const page of pages) await expectText(page, '#state', /Live|Connected/, Number(want.wait) * 1000);
    // What was heard while the other pages were still being loaded says more about this machine than about the relay.
    await Promise.all(pages.map((page) => page.evaluate(() => window.recording.restart())));
    say({ event: 'listening', count });
    await pages[0].waitForTimeout(Number(want.seconds) * 1000);
    const path = (i) => (count === 1 ? want.wav : want.wav.replace(/(\.wav)?$/, `-${i + 1}.wav`));
    const all = await Promise.all(pages.map((page, i) => finishListening(page, path(i))));
    writeFileSync(want.stats, JSON.stringify(count === 1 ? all[0] : all, null, 2));
    say({ event: 'done', listeners: all.map(({ stats, ...rest }) => ({ ...rest, ...heard(stats) })) });
  });
}

async function startListening(context, url) {
  const page = await open(context, url);
  await page.evaluate(recordAudioElement);
  await page.locator('#play').click();
  return page;
}

async function finishListening(page, path) {
  const state = await page.locator('#state').innerText();
  const [stats] = await connectionStats(page);
  const { base64, rates, frames } = await page.evaluate(() => window.recording.finish());
  if (!base64) throw new Error(`${page.url()}: nothing was heard (${state})`);
  if (rates.some((rate) => rate !== RATE)) throw new Error(`recorded at ${rates} Hz, not ${RATE}`);
  const bytes = Buffer.from(base64, 'base64');
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  writeFloatWav(path, samples, RATE);
  await page.locator('#play').click();
  return { wav: path, state, seconds: samples.length / RATE, frames, stats };
}

/**
 * Runs in the page. Collects the samples of every stream the page's audio element is given, straight from the track as
 * the jitter buffer hands them out, without a resampler or another clock between.
 */
function recordAudioElement() {
  const element = document.querySelector('audio');
  let chunks = [];
  const rates = new Set();
  let stream = null;
  const record = async (track) => {
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 3000 }).readable.getReader();
    for (;;) {
      const { done, value: data } = await reader.read();
      if (done) return;
      const chunk = new Float32Array(data.numberOfFrames);
      data.copyTo(chunk, { planeIndex: 0, format: 'f32-planar' });
      rates.add(data.sampleRate);
      data.close();
      if (element.srcObject === stream) chunks.push(chunk);
    }
  };
  const look = setInterval(() => {
    if (element.srcObject === stream || !element.srcObject?.getAudioTracks().length) return;
    stream = element.srcObject;
    record(stream.getAudioTracks()[0].clone());
  }, 5);
  const finish = async () => {
    clearInterval(look);
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(new Blob(chunks));
    });
    return { base64: url.split(',')[1] ?? '', rates: [...rates], frames: chunks.length };
  };
  const restart = () => {
    chunks = [];
  };
  window.recording = { restart, finish };
}

/** A page that keeps its peer connections where the driver can ask them for statistics. */
async function open(context, url) {
  const page = await context.newPage();
  page.on('pageerror', (error) => process.stderr.write(`page error: ${error.message}\n`));
  await page.addInitScript(() => {
    const Real = window.RTCPeerConnection;
    window.connections = [];
    window.RTCPeerConnection = class extends Real {
      constructor(...args) {
        super(...args);
        window.connections.push(this);
      }
    };
  });
  const answer = await page.goto(url);
  if (!answer.ok()) throw new Error(`${url} answered ${answer.status()}`);
  await page.locator('#play, #start').locator('visible=true').first().waitFor({ timeout: 10000 }).catch(async () => {
    throw new Error(`${url} is not ready: ${await page.locator('main').innerText()}`);
  });
  return page;
}

function connectionStats(page) {
  return page.evaluate(() => {
    const live = window.connections.filter((pc) => pc.connectionState === 'connected');
    return Promise.all(live.map(async (pc) => [...(await pc.getStats()).values()]));
  });
}

function heard(stats) {
  const names = ['packetsReceived', 'packetsLost', 'concealedSamples', 'silentConcealedSamples', 'totalSamplesReceived', 'jitter', 'jitterBufferDelay', 'jitterBufferEmittedCount'];
  return summary(stats, 'inbound-rtp', names);
}

function summary(stats, type, names) {
  const entry = stats?.find((one) => one.type === type && one.kind === 'audio') ?? {};
  return Object.fromEntries(names.map((name) => [name, entry[name]]));
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

const commands = { speak, listen };
const [command, ...rest] = process.argv.slice(2);
try {
  if (!commands[command]) throw new Error('usage: node chromium.mjs speak|listen --page URL …');
  await commands[command](rest);
} catch (error) {
  process.stderr.write(`chromium.mjs: ${error.message}\n`);
  process.exit(1);
}
