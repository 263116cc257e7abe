// Clicks through the relay's pages as people do, the failures included, and checks the words they are shown.
//
//   node pages.mjs --base http://127.0.0.1:8080 --wav SPEECH.wav [--relay-pid PID] [--only PATTERN]
//
// With `--relay-pid` the last check kills that relay (SIGKILL) under a listener and a speaker.
// Prints one line per check; exit code 1 when one fails.

import { deleted, expectText, fakeMicrophone, options, withBrowser } from './browser.mjs';

const want = options({ base: undefined, wav: undefined, 'relay-pid': '', only: '' });
const base = want.base.replace(/\/$/, '');
const wanted = new RegExp(want.only);
const faults = [];
let failed = 0;

async function check(name, body) {
  if (!wanted.test(name)) return;
  faults.length = 0;
  try {
    await body();
    if (faults.length) throw new Error(faults.join('; '));
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${error.message.replaceAll('\n', '\n      ')}`);
  }
}

async function visit(context, path) {
  const page = await context.newPage();
  page.on('pageerror', (error) => faults.push(`page error: ${error.message}`));
  page.on('console', (message) => {
    if (/Content Security Policy/.test(message.text())) faults.push(message.text());
  });
  await page.goto(path.startsWith('http') ? path : base + path);
  return page;
}

async function createSession(languages = ['es']) {
  const response = await fetch(`${base}/v1/sessions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ sourceLanguage: 'en', languages }),
  });
  if (response.status !== 201) throw new Error(`POST /v1/sessions answered ${response.status}`);
  return (await response.json()).sessionId;
}

const endSession = (id) => fetch(`${base}/v1/sessions/${id}`, { method: 'DELETE' });

async function expectFigure(page, name, pattern) {
  await page.locator('#figures').evaluate((details) => (details.open = true));
  return expectText(page, `[data-figure="${name}"]`, pattern);
}

async function listenerCount(id) {
  return (await (await fetch(`${base}/v1/sessions/${id}`)).json()).listeners;
}

async function expectListeners(id, count) {
  for (let i = 0; i < 50; i += 1) {
    if ((await listenerCount(id)) === count) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${id} has ${await listenerCount(id)} listeners, not ${count}`);
}

/** What goes on in one browser with a microphone: a name, and what is done. */
const SCENES = {
  'the front page leads to a session': async (context) => {
    const id = await createSession();
    const page = await visit(context, '/');
    await expectText(page, '#join h1', /Listen to a session/);
    await page.getByLabel('Session').fill(id);
    await page.getByRole('button', { name: 'Open' }).click();
    await expectText(page, '#title', new RegExp(id));
    await page.close();
  },

  'a session is created, spoken in, heard, paused and stopped': async (context) => {
    const speaker = await visit(context, '/speak');
    await speaker.getByLabel('You speak').selectOption('en');
    await speaker.getByLabel('Interpreters will add').selectOption('es');
    await expectText(speaker, '#extra-chosen', /Spanish/);
    await speaker.getByRole('button', { name: 'Create session' }).click();
    await expectText(speaker, '#state', /Not on air yet/);
    const link = await speaker.getByLabel('Link for listeners').inputValue();
    const code = speaker.locator('#share-code');
    await code.evaluate((image) => image.decode());

    const listener = await visit(context, link);
    await expectText(listener, '#state', /Nobody speaks yet/);
    await listener.getByRole('button', { name: 'Play' }).click();
    await expectText(listener, '#state', /Connected. Waiting for the English speaker/);
    await expectText(speaker, '#listeners', /^1$/);

    await speaker.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(speaker, '#state', /On air in English/);
    await expectText(listener, '#state', /Live in English/);
    await expectFigure(listener, 'packets', /[1-9]/);
    await expectFigure(listener, 'buffer', /\d/);
    await expectFigure(speaker, 'bitrate', /[1-9]/);
    await expectText(speaker, '#elapsed', /0:0[1-9]/);
    const loud = () => Number(document.querySelector('#meter').getAttribute('aria-valuenow')) > -50;
    await listener.waitForFunction(loud, null, { timeout: 5000, polling: 50 });

    await speaker.getByRole('button', { name: 'Pause' }).click();
    await expectText(speaker, '#state', /Paused/);
    await expectText(listener, '#state', /The speaker pauses/);
    await speaker.getByRole('button', { name: 'Resume' }).click();
    await expectText(speaker, '#state', /On air/);
    await expectText(listener, '#state', /Live in English/);

    await listener.getByText('Spanish').click();
    await expectText(listener, '#state', /Waiting for the Spanish speaker/);
    await expectListeners(new URL(speaker.url()).pathname.split('/')[2], 1);
    await listener.getByText('English').first().click();
    await expectText(listener, '#state', /Live in English/);

    await speaker.getByRole('button', { name: 'Stop' }).click();
    await expectText(speaker, '#state', /Not on air/);
    await expectText(listener, '#state', /Waiting for the English speaker/);
    await speaker.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(listener, '#state', /Live in English/);

    speaker.on('dialog', (dialog) => dialog.accept());
    await speaker.getByRole('button', { name: /End the session/ }).click();
    await expectText(listener, '#failure', /There is no such session|The session has ended/);
    await expectText(speaker, 'h1', /Start a session/);
    await listener.close();
    await speaker.close();
  },

  'a second speaker is told that somebody speaks already': async (context) => {
    const id = await createSession();
    const first = await visit(context, `/speak/${id}`);
    await first.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(first, '#state', /On air/);
    const second = await visit(context, `/speak/${id}`);
    await second.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(second, '#failure', /Somebody is already speaking/);
    const gone = deleted(first);
    await first.getByRole('button', { name: 'Stop' }).click();
    await gone;
    await second.getByRole('button', { name: 'Try again' }).click();
    await expectText(second, '#state', /On air/);
    await first.close();
    await second.close();
  },

  'the speaker takes over from another tab, and the other is told': async (context) => {
    const first = await visit(context, '/speak');
    await first.getByLabel('You speak').selectOption('en');
    await first.getByRole('button', { name: 'Create session' }).click();
    await expectText(first, '#state', /Not on air yet/);
    const id = new URL(first.url()).pathname.split('/')[2];
    const second = await visit(context, `/speak/${id}`);
    await second.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(second, '#state', /On air/);
    await first.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(first, '#failure', /Somebody is already speaking/);
    await first.getByRole('button', { name: 'Take over here' }).click();
    await expectText(first, '#state', /On air/);
    await expectText(second, '#state', /Connection lost|Not on air/);
    await expectText(first, '#state', /On air/);
    await second.close();
    await first.close();
  },

  'a language is added while the session runs': async (context) => {
    const id = await createSession([]);
    const speaker = await visit(context, `/speak/${id}`);
    const listener = await visit(context, `/listen/${id}`);
    await listener.getByRole('button', { name: 'Play' }).click();
    await expectText(listener, '#state', /Waiting for the English speaker/);
    await speaker.getByLabel('Add a language').selectOption('de');
    await expectText(listener, '#languages', /English[\s\S]*German/);
    await expectText(speaker, '#languages', /English[\s\S]*German/);
    await listener.getByText('German').click();
    await expectText(listener, '#state', /Waiting for the German speaker/);
    await listener.close();
    await speaker.close();
  },

  'a listener whose connection is gone comes back by itself, with its ticket': async (context) => {
    const id = await createSession();
    const page = await context.newPage();
    const joins = [];
    let leg = null;
    page.on('response', async (response) => {
      const asked = response.request();
      if (asked.method() !== 'POST' || !asked.url().includes('/whep/')) return;
      joins.push({ status: response.status(), shown: asked.headers()['relay-ticket'], given: response.headers()['relay-ticket'] });
      leg = response.headers().location ?? leg;
    });
    await page.goto(`${base}/listen/${id}`);
    await page.getByRole('button', { name: 'Play' }).click();
    await expectText(page, '#state', /Connected. Waiting/);
    await fetch(new URL(leg, base), { method: 'DELETE' });
    await expectText(page, '#state', /Connection lost|Not connected/, 15000);
    await expectText(page, '#state', /Connected. Waiting/, 15000);
    await expectListeners(id, 1);
    if (joins.length < 2 || !joins[0].given || joins[1].shown !== joins[0].given) throw new Error(JSON.stringify(joins));
    await page.close();
  },

  'pages that get events do not ask': async (context) => {
    const id = await createSession();
    const page = await context.newPage();
    let asked = 0;
    await page.route('**/v1/sessions/*', (route) => {
      asked += 1;
      return route.continue();
    });
    await page.goto(`${base}/listen/${id}`);
    await expectText(page, '#state', /Nobody speaks yet/);
    const speaker = await visit(context, `/speak/${id}`);
    await speaker.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(page, '#state', /The speaker is live/);
    await speaker.getByRole('button', { name: 'Stop' }).click();
    await expectText(page, '#state', /Nobody speaks yet/);
    await endSession(id);
    await expectText(page, '#failure', /The session has ended/);
    if (asked !== 1) throw new Error(`the page asked ${asked} times`);
    await page.close();
    await speaker.close();
  },

  'pages that get no events ask instead': async (context) => {
    const id = await createSession();
    const page = await context.newPage();
    await page.routeWebSocket('**/events', (socket) => socket.close());
    await page.goto(`${base}/listen/${id}`);
    await expectText(page, '#state', /Nobody speaks yet/);
    const speaker = await visit(context, `/speak/${id}`);
    await speaker.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(page, '#state', /The speaker is live/);
    await endSession(id);
    await expectText(page, '#failure', /The session has ended/);
    await page.close();
    await speaker.close();
  },

  'an unknown session says so and offers to open another': async (context) => {
    const page = await visit(context, '/listen/no-such-session-1');
    await expectText(page, '#failure', /There is no such session[\s\S]*Check the link/);
    await expectText(page, '#join h1', /Listen to a session/);
    await page.goto(`${base}/speak/no-such-session-1`);
    await expectText(page, '#failure', /There is no such session/);
    await page.close();
  },

  'an unknown language says which there are': async (context) => {
    const page = await visit(context, `/listen/${await createSession()}/ja`);
    await expectText(page, '#failure', /does not have this language[\s\S]*Choose/);
    await expectText(page, '#languages', /English[\s\S]*Spanish/);
    await page.close();
  },

  'a session that ends is said to listeners who only look': async (context) => {
    const id = await createSession();
    const page = await visit(context, `/listen/${id}`);
    await expectText(page, '#state', /Nobody speaks yet/);
    await endSession(id);
    await expectText(page, '#failure', /There is no such session|The session has ended/);
    await page.close();
  },

  'a browser without WebRTC is told': async (context) => {
    const page = await context.newPage();
    await page.addInitScript(() => delete window.RTCPeerConnection);
    await page.goto(`${base}/listen/${await createSession()}`);
    await expectText(page, '#failure', /This browser has no live audio[\s\S]*Chrome/);
    await page.close();
  },

  'a relay out of reach is said at once and found again': async (context) => {
    const id = await createSession();
    const page = await context.newPage();
    const sockets = [];
    let reachable = true;
    await page.routeWebSocket('**/events', (socket) => {
      if (!reachable) return socket.close();
      sockets.push(socket);
      socket.connectToServer();
    });
    await page.goto(`${base}/listen/${id}`);
    await page.getByRole('button', { name: 'Play' }).click();
    await expectText(page, '#state', /Connected/);
    await page.getByRole('button', { name: 'Stop' }).click();
    reachable = false;
    await page.route('**/v1/**', (route) => route.abort());
    for (const socket of sockets) socket.close();
    await expectText(page, '#state', /The relay does not answer/);
    await page.getByRole('button', { name: 'Play' }).click();
    await expectText(page, '#state', /does not answer. Trying again by itself/);
    reachable = true;
    await page.unroute('**/v1/**');
    await expectText(page, '#state', /Connected/, 15000);
    await page.close();
  },

  'the pages work by keyboard alone': async (context) => {
    const page = await visit(context, `/listen/${await createSession()}`);
    await expectText(page, '#state', /Nobody speaks yet/);
    await page.getByRole('radio', { name: /English/ }).focus();
    await page.keyboard.press('ArrowRight');
    await page.waitForURL(/\/es$/);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await expectText(page, '#state', /Waiting for the Spanish speaker/);
    await page.close();
  },
};

await withBrowser({ flags: fakeMicrophone(want.wav) }, async (context) => {
  for (const [name, scene] of Object.entries(SCENES)) await check(name, () => scene(context));
});

await check('a refused microphone says how to allow it', () =>
  withBrowser({ flags: ['--deny-permission-prompts', '--use-fake-device-for-media-stream'] }, async (context) => {
    const page = await visit(context, `/speak/${await createSession()}`);
    await page.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(page, '#microphone-failure', /The microphone is blocked[\s\S]*address bar/);
  }),
);

await check('a missing microphone says to connect one', () =>
  withBrowser({ flags: ['--use-fake-ui-for-media-stream'] }, async (context) => {
    const page = await visit(context, `/speak/${await createSession()}`);
    await page.getByRole('button', { name: 'Start speaking' }).click();
    await expectText(page, '#microphone-failure', /No microphone found[\s\S]*Connect one/);
  }),
);

await check('a page without https says where the microphone works', () =>
  withBrowser({}, async (context) => {
    // The relay serves its own names only; what another name would get is fetched from it here.
    await context.route('http://relay.test/**', async (route) => {
      const { pathname, search } = new URL(route.request().url());
      await route.fulfill({ response: await route.fetch({ url: base + pathname + search, headers: {} }) });
    });
    const page = await visit(context, 'http://relay.test/speak');
    await expectText(page, '#failure', /needs a secure page[\s\S]*https:\/\/[\s\S]*localhost/);
  }),
);

if (want['relay-pid']) {
  await check('a killed relay is said to listener and speaker', () =>
    withBrowser({ flags: fakeMicrophone(want.wav) }, async (context) => {
      const id = await createSession();
      const listener = await visit(context, `/listen/${id}`);
      await listener.getByRole('button', { name: 'Play' }).click();
      const speaker = await visit(context, `/speak/${id}`);
      await speaker.getByRole('button', { name: 'Start speaking' }).click();
      await expectText(listener, '#state', /Live in English/);
      process.kill(Number(want['relay-pid']), 'SIGKILL');
      await expectText(listener, '#state', /The relay does not answer. Trying again by itself/, 40000);
      await expectText(speaker, '#state', /The relay does not answer. Trying again by itself/, 40000);
    }),
  );
}

process.exit(failed ? 1 : 0);
