// A listener or speaker in Chromium, on the relay's own page, whose connection is replaced while it goes on.
//
//   node lossless.mjs --page URL --wav OUT.wav --stats OUT.json
//   node lossless.mjs --page URL --microphone IN.wav
//
// Steps, one per line on standard input: `listen`, `speak`, `stats NAME`, `restart` (the network changes, as the browser tells pages),
// `replaced N` (waits until N connections have been made in all and one stands), `settle SECONDS`, `finish`. Each prints
// `{"done": STEP}` when it is done. Exit code 1 and a message on stderr when one fails.

import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { expectText, fakeMicrophone, options, withBrowser } from './browser.mjs';
import { connectionStats, open, record, restartRecording, saveRecording } from './recorder.mjs';

const PATIENCE_MS = 30000;
const NAMES = ['ssrc', 'packetsReceived', 'packetsLost', 'packetsDiscarded', 'concealedSamples', 'silentConcealedSamples',
  'concealmentEvents', 'insertedSamplesForDeceleration', 'removedSamplesForAcceleration', 'totalSamplesReceived', 'jitterBufferDelay',
  'jitterBufferEmittedCount'];
const want = options({ page: undefined, wav: '', stats: '', microphone: '' });
const LIVE = want.microphone ? /On air/ : /Live/;
const told = {};

const inbound = (stats) => stats.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'audio');

const STEPS = {
  async listen(page) {
    await record(page);
    await page.locator('#play').click();
    await expectText(page, '#state', LIVE, PATIENCE_MS);
    // The jitter buffer has found its delay by then.
    await page.waitForTimeout(2000);
    await restartRecording(page);
  },

  async speak(page) {
    await page.locator('#processing').uncheck();
    await page.locator('#start').click();
    await expectText(page, '#state', LIVE, PATIENCE_MS);
  },

  async stats(page, name) {
    told[name] = (await connectionStats(page)).map(inbound).filter(Boolean)
      .map((entry) => Object.fromEntries(NAMES.map((key) => [key, entry[key]])));
  },

  async restart(page) {
    await page.evaluate((patience) => new Promise((done, fail) => {
      const standing = window.connections.find((pc) => pc.connectionState === 'connected');
      const { iceTransport } = [...standing.getReceivers(), ...standing.getSenders()].find(({ transport }) => transport).transport;
      iceTransport.addEventListener('selectedcandidatepairchange', done, { once: true });
      setTimeout(() => fail(new Error(`waited ${patience} ms for another candidate pair`)), patience);
      window.dispatchEvent(new Event('online'));
    }).then(() => {}), PATIENCE_MS);
    await expectText(page, '#state', LIVE, PATIENCE_MS);
  },

  async replaced(page, count) {
    await page.waitForFunction((wanted) => {
      const standing = window.connections.filter((pc) => pc.connectionState === 'connected');
      return window.connections.length >= wanted && standing.length === 1 && standing[0] === window.connections.at(-1);
    }, Number(count), { timeout: PATIENCE_MS, polling: 50 });
    await expectText(page, '#state', LIVE, PATIENCE_MS);
  },

  settle: (page, seconds) => page.waitForTimeout(Number(seconds) * 1000),

  async finish(page) {
    if (!want.wav) return;
    await saveRecording(page, want.wav);
    writeFileSync(want.stats, JSON.stringify(told, null, 2));
  },
};

try {
  await withBrowser({ flags: want.microphone ? fakeMicrophone(want.microphone) : [] }, async (context) => {
    const page = await open(context, want.page);
    const say = (done) => process.stdout.write(`${JSON.stringify({ done })}\n`);
    say('start');
    for await (const line of createInterface({ input: process.stdin })) {
      const [step, argument] = line.trim().split(' ');
      if (!STEPS[step]) throw new Error(`no step ${step}`);
      await STEPS[step](page, argument);
      say(step);
      if (step === 'finish') break;
    }
  });
} catch (error) {
  process.stderr.write(`lossless.mjs: ${error.message}\n`);
  process.exit(1);
}
