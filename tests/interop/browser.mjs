// What the Chromium drivers share: starting the browser as a user has it, the command line, WAV files.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // Several pages play at once; none may be slowed for being in the background.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  '--autoplay-policy=no-user-gesture-required',
];

/** `--name value` pairs of the command line over `defaults`; a default of `undefined` is required. */
export function options(defaults, given = process.argv.slice(2)) {
  const found = { ...defaults };
  for (let i = 0; i < given.length; i += 2) {
    const name = given[i].replace(/^--/, '');
    if (!given[i].startsWith('--') || !(name in defaults)) throw new Error(`unknown option ${given[i]}`);
    if (given[i + 1] === undefined) throw new Error(`--${name} needs a value`);
    found[name] = given[i + 1];
  }
  for (const [name, value] of Object.entries(found)) if (value === undefined) throw new Error(`--${name} is missing`);
  return found;
}

/** A new folder that is gone when this program ends, by a signal too: the browser's driver turns those into an exit. */
function temporary(prefix) {
  const folder = mkdtempSync(join(tmpdir(), prefix));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}

/** Runs `use(context)` in a new browser with an empty profile, and takes everything away again. */
export async function withBrowser({ flags = [], ...more }, use) {
  const profile = temporary('relay-chromium-');
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [...FLAGS, ...flags],
    ...more,
  });
  try {
    return await use(context);
  } finally {
    await context.close();
  }
}

/** A fake microphone that plays `wav`, over and over or once after `leadSeconds` of silence, and permission to use it. */
export function fakeMicrophone(wav, { loop = true, leadSeconds = 0 } = {}) {
  const path = join(temporary('relay-microphone-'), 'microphone.wav');
  writeFileSync(path, withLead(readFileSync(wav), leadSeconds));
  return [
    '--use-fake-ui-for-media-stream',
    '--use-fake-device-for-media-stream',
    `--use-file-for-fake-audio-capture=${path}${loop ? '' : '%noloop'}`,
  ];
}

function withLead(wav, seconds) {
  let at = 12;
  while (wav.toString('latin1', at, at + 4) !== 'data') at += 8 + wav.readUInt32LE(at + 4);
  const byteRate = wav.readUInt32LE(28);
  const align = wav.readUInt16LE(32);
  const silence = Buffer.alloc(Math.round((seconds * byteRate) / align) * align);
  const data = Buffer.concat([silence, wav.subarray(at + 8)]);
  const head = Buffer.from(wav.subarray(0, at + 8));
  head.writeUInt32LE(data.length, at + 4);
  head.writeUInt32LE(head.length + data.length - 8, 4);
  return Buffer.concat([head, data]);
}

/** One channel of 32-bit float samples as a WAV file. */
export function writeFloatWav(path, samples, rate) {
  const head = Buffer.alloc(44);
  head.write('RIFF', 0, 'latin1');
  head.writeUInt32LE(36 + samples.byteLength, 4);
  head.write('WAVEfmt ', 8, 'latin1');
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(3, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * 4, 28);
  head.writeUInt16LE(4, 32);
  head.writeUInt16LE(32, 34);
  head.write('data', 36, 'latin1');
  head.writeUInt32LE(samples.byteLength, 40);
  writeFileSync(path, Buffer.concat([head, Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength)]));
}

/** Fails with what the page showed instead, so that a red test explains itself. */
export async function expectText(page, selector, pattern, timeout = 10000) {
  const shown = (wanted) => {
    const found = document.querySelector(wanted.selector);
    const text = found?.checkVisibility({ visibilityProperty: true }) ? found.innerText : '(hidden)';
    return (!wanted.source || new RegExp(wanted.source, wanted.flags).test(text)) && { text };
  };
  const { source, flags } = pattern;
  try {
    const seen = await page.waitForFunction(shown, { selector, source, flags }, { timeout, polling: 50 });
    return (await seen.jsonValue()).text;
  } catch (error) {
    const seen = await page.evaluate(shown, { selector }).catch(() => error);
    throw new Error(`${page.url()}: expected ${selector} to show ${pattern}, saw ${JSON.stringify(seen.text ?? seen.message)}`);
  }
}

/** Waits until the relay has answered a DELETE of the page's: its connection is gone there, too. */
export const deleted = (page) => page.waitForResponse((response) => response.request().method() === 'DELETE', { timeout: 10000 });
