// Records what a page of the relay lets a listener hear, and asks its peer connections for statistics.

import { writeFloatWav } from './browser.mjs';

const RATE = 48000;

/** A page that keeps its peer connections and audio elements where the driver can ask them. */
export async function open(context, url) {
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
    window.players = new Set();
    const { play } = HTMLMediaElement.prototype;
    HTMLMediaElement.prototype.play = function () {
      window.players.add(this);
      return play.call(this);
    };
  });
  const answer = await page.goto(url);
  if (!answer.ok()) throw new Error(`${url} answered ${answer.status()}`);
  await page.locator('#play, #start').locator('visible=true').first().waitFor({ timeout: 10000 }).catch(async () => {
    throw new Error(`${url} is not ready: ${await page.locator('main').innerText()}`);
  });
  return page;
}

/** The statistics of each connection that stands, in the order in which they were made. */
export function connectionStats(page) {
  return page.evaluate(() => {
    const live = window.connections.filter((pc) => pc.connectionState === 'connected');
    return Promise.all(live.map(async (pc) => [...(await pc.getStats()).values()]));
  });
}

export const record = (page) => page.evaluate(recordWhatIsHeard);

export const restartRecording = (page) => page.evaluate(() => window.recording.restart());

/** Writes what was heard, 48 kHz mono float; answers with its length in seconds. */
export async function saveRecording(page, path) {
  const { base64, rates } = await page.evaluate(() => window.recording.finish());
  if (!base64) throw new Error(`${page.url()}: nothing was heard (${await page.locator('#state').innerText()})`);
  if (rates.some((rate) => rate !== RATE)) throw new Error(`recorded at ${rates} Hz, not ${RATE}`);
  const bytes = Buffer.from(base64, 'base64');
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  writeFloatWav(path, samples, RATE);
  return samples.length / RATE;
}

/**
 * Runs in the page. Collects the samples of the one audio element that is heard, whichever that is at each moment, straight
 * from its track as the jitter buffer hands them out, without a resampler or another clock between.
 */
function recordWhatIsHeard() {
  let chunks = [];
  const rates = new Set();
  const known = new WeakSet();
  const heard = (stream) => [...window.players].some((element) => !element.muted && element.srcObject === stream);
  const read = async (stream) => {
    const track = stream.getAudioTracks()[0].clone();
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 3000 }).readable.getReader();
    for (;;) {
      const { done, value: data } = await reader.read();
      if (done) return;
      const chunk = new Float32Array(data.numberOfFrames);
      data.copyTo(chunk, { planeIndex: 0, format: 'f32-planar' });
      rates.add(data.sampleRate);
      data.close();
      if (heard(stream)) chunks.push(chunk);
    }
  };
  const look = setInterval(() => {
    for (const { srcObject: stream } of window.players) {
      if (!stream?.getAudioTracks().length || known.has(stream)) continue;
      known.add(stream);
      read(stream);
    }
  }, 5);
  const finish = async () => {
    clearInterval(look);
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(new Blob(chunks));
    });
    return { base64: url.split(',')[1] ?? '', rates: [...rates] };
  };
  const restart = () => {
    chunks = [];
  };
  window.recording = { restart, finish };
}
