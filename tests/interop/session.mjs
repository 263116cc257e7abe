// One browser through a whole session, step by step as its standard input says; tokens in the links, as people get them.
//
//   node session.mjs --speak 'http://…/speak/ID#token=…' --listen http://…/listen/ID --wav SPEECH.wav
//
// Steps, one per line: `early N`, `speak`, `late N`, `pause`, `resume`, `language TAG`, `warned`, `renew TOKEN`, `ended`.
// Each prints `{"done": STEP}` once the pages show what they should. Exit code 1 and a message on stderr when they do not.

import { createInterface } from 'node:readline';
import { expectText, fakeMicrophone, options, withBrowser } from './browser.mjs';

const PATIENCE_MS = 30000;
const want = options({ speak: undefined, listen: undefined, wav: undefined });
const listeners = [];
let speaker = null;

const everybody = (pattern) => Promise.all(listeners.map((page) => expectText(page, '#state', pattern, PATIENCE_MS)));

async function listen(context, count, pattern) {
  for (let i = 0; i < count; i += 1) {
    const page = await context.newPage();
    await page.goto(want.listen);
    await page.locator('#play').click();
    await expectText(page, '#state', pattern, PATIENCE_MS);
    listeners.push(page);
  }
}

/** What is where anybody may look over a shoulder, or pass on. */
async function expectNoToken(page, token) {
  const shown = await page.evaluate(() => [location.href, document.body.innerText, document.body.innerHTML].join('\n'));
  const link = await page.locator('#share-link').inputValue();
  if (shown.includes(token) || link.includes(token) || link.includes('#')) throw new Error(`${page.url()} shows its token`);
}

const STEPS = {
  early: (context, count) => listen(context, Number(count), /Waiting for the English speaker/),

  async speak(context) {
    speaker = await context.newPage();
    await speaker.goto(want.speak);
    await speaker.locator('#start').click();
    await expectText(speaker, '#state', /On air in English/, PATIENCE_MS);
    await expectNoToken(speaker, want.speak.split('#token=')[1]);
    await everybody(/Live in English/);
  },

  late: (context, count) => listen(context, Number(count), /Live in English/),

  async pause() {
    await speaker.getByRole('button', { name: 'Pause' }).click();
    await expectText(speaker, '#state', /Paused: listeners hear silence/, PATIENCE_MS);
    await everybody(/The speaker pauses/);
  },

  async resume() {
    await speaker.getByRole('button', { name: 'Resume' }).click();
    await expectText(speaker, '#state', /On air in English/, PATIENCE_MS);
    await everybody(/Live in English/);
  },

  async language(context, tag) {
    const name = new Intl.DisplayNames(['en'], { type: 'language' }).of(tag);
    await speaker.locator('#add-language').selectOption(tag);
    await Promise.all([speaker, ...listeners].map((page) => expectText(page, '#languages', new RegExp(name), PATIENCE_MS)));
  },

  async warned() {
    await expectText(speaker, '#warning', /Your link ends in 1 minute/, 90000);
  },

  async renew(context, token) {
    await speaker.evaluate((given) => (location.hash = `#token=${given}`), token);
    await speaker.locator('#warning').waitFor({ state: 'hidden', timeout: PATIENCE_MS });
    await expectText(speaker, '#state', /On air in English/);
    await expectNoToken(speaker, token);
  },

  async ended() {
    await Promise.all([speaker, ...listeners].map((page) => expectText(page, '#failure', /The session has ended/, PATIENCE_MS)));
  },
};

try {
  await withBrowser({ flags: fakeMicrophone(want.wav) }, async (context) => {
    const say = (done) => process.stdout.write(`${JSON.stringify({ done })}\n`);
    say('start');
    for await (const line of createInterface({ input: process.stdin })) {
      const [step, argument] = line.trim().split(' ');
      if (!STEPS[step]) throw new Error(`no step ${step}`);
      await STEPS[step](context, argument);
      say(step);
    }
  });
} catch (error) {
  process.stderr.write(`session.mjs: ${error.message}\n`);
  process.exit(1);
}
