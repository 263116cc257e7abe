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
import { deleted, expectText, fakeMicrophone, options, withBrowser } from './browser.mjs';
import { connectionStats, open, record, restartRecording, saveRecording } from './recorder.mjs';

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
    const gone = deleted(page);
    await page.locator('#stop').click();
    await gone;
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
    await Promise.all(pages.map(restartRecording));
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
  await record(page);
  await page.locator('#play').click();
  return page;
}

async function finishListening(page, path) {
  const state = await page.locator('#state').innerText();
  const [stats] = await connectionStats(page);
  const seconds = await saveRecording(page, path);
  await page.locator('#play').click();
  return { wav: path, state, seconds, stats };
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
