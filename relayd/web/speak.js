// The speaking page: make or continue a session, choose a microphone, speak, pause, stop, and see who listens.

import { addLanguage, endSession, getSession, pathParts, pauseSession, resumeSession, whipEndpoint } from './api.js';
import { stayAwake } from './awake.js';
import { hideCreateForm, showCreateForm } from './create.js';
import { hideFailure, showFailure, showWarning, unsupported } from './failure.js';
import { languageChoice, languageName, languageOptions } from './languages.js';
import { Link } from './link.js';
import { Meter } from './meter.js';
import { Microphone } from './microphone.js';
import { showShare } from './share.js';
import { showFigures, watchStats } from './stats.js';
import { watchSession } from './watch.js';

const BITRATE = 48000;
const SILENCE_DB = -55;
const SILENCE_MS = 4000;
const OWN_SESSION = 'relay.session';
const SECRET = 'relay.resume.';

const $ = (id) => document.getElementById(id);
const microphone = new Microphone();
const meter = new Meter($('meter'));
const link = new Link((pc) => {
  const sendEncodings = [{ maxBitrate: BITRATE, networkPriority: 'high' }];
  pc.addTransceiver(microphone.track, { direction: 'sendonly', sendEncodings });
}, secret);
let session = null;
let language = null;
let linkState = { phase: 'idle' };
let muted = false;
let mayManage = true;
let startedAt = null;
let watch = null;
let loudAt = performance.now();
// Whoever presses Start wants to be heard, also in a session that stands still.
let resumeOnAir = false;

open();

async function open() {
  hideFailure($('failure'));
  const problem = unsupported({ microphone: true });
  if (problem) return fail(problem);
  const [, id] = pathParts();
  if (id) {
    try {
      enter(await getSession(id));
    } catch (error) {
      return fail(error, open);
    }
  } else {
    showCreateForm(made, (error) => fail(error, () => $('create').requestSubmit()));
  }
  $('columns').hidden = false;
  showState();
  if (await microphone.allowed()) openMicrophone();
  else await microphone.refresh();
}

function made(created) {
  hideFailure($('failure'));
  sessionStorage.setItem(OWN_SESSION, created.sessionId);
  if (created.resumeSecret) sessionStorage.setItem(SECRET + created.sessionId, created.resumeSecret);
  history.replaceState(null, '', `/speak/${encodeURIComponent(created.sessionId)}`);
  enter(created);
  $('start').focus();
  if (!microphone.track) openMicrophone();
}

function enter(found) {
  session = found;
  language = session.sourceLanguage;
  hideCreateForm();
  document.title = `${session.sessionId} · Speak`;
  $('title').textContent = session.sessionId;
  $('eyebrow').hidden = false;
  $('lead').hidden = true;
  $('state').hidden = false;
  $('side').hidden = false;
  $('main').classList.remove('narrow');
  $('columns').classList.add('two');
  offerLanguages();
  const page = session.pages?.listen ?? `/listen/${encodeURIComponent(session.sessionId)}`;
  showShare($('share'), new URL(page, location.href).href, session.anonymousListeners !== false);
  watch?.stop();
  watch = watchSession(session, { told: sessionTold, lost: sessionLost, warned, joined, link });
  showState();
}

/** What this tab was given when it made the session: whoever has it may take the speaker's place. */
function secret() {
  return sessionStorage.getItem(SECRET + session?.sessionId);
}

function offerLanguages() {
  if (!session.languages.includes(language)) language = session.sourceLanguage;
  $('languages').hidden = session.languages.length < 2;
  languageChoice($('languages'), session.languages, language, (tag) => {
    language = tag;
    showState();
  });
  const free = languageOptions().filter(({ value }) => !session.languages.includes(value));
  $('add-language').replaceChildren(new Option('Add a language…', ''), ...free);
}

$('add-language').addEventListener('change', async ({ target }) => {
  if (!target.value) return;
  target.disabled = true;
  try {
    const answer = await addLanguage(session.sessionId, target.value);
    if (answer?.languages) watch.replace(answer);
  } catch (error) {
    fail(error);
  }
  target.value = '';
  target.disabled = false;
});

// ---- microphone

async function openMicrophone(deviceId) {
  try {
    await microphone.open(deviceId);
    hideFailure($('microphone-failure'));
    return true;
  } catch (error) {
    showFailure($('microphone-failure'), error, () => openMicrophone());
    return false;
  }
}

$('microphone').addEventListener('change', ({ target }) => openMicrophone(target.value));
$('processing').addEventListener('change', ({ target }) => microphone.setProcessing(target.checked).catch((error) => fail(error)));

microphone.addEventListener('devices', () => {
  const options = microphone.devices.map((device, i) => new Option(device.label || `Microphone ${i + 1}`, device.deviceId));
  $('microphone').replaceChildren(...(options.length ? options : [new Option('Default microphone', '')]));
  if (options.some(({ value }) => value === microphone.chosen)) $('microphone').value = microphone.chosen;
  const wasMissing = $('microphone-failure').dataset.code === 'NotFoundError' && !$('microphone-failure').hidden;
  if (wasMissing && microphone.devices.length) openMicrophone();
});

microphone.addEventListener('track', async ({ detail: track }) => {
  meter.attach(new MediaStream([track]));
  loudAt = performance.now();
  await Promise.all(link.legs.map((leg) => leg.pc.getSenders()[0]?.replaceTrack(track)));
});

microphone.addEventListener('gone', async () => {
  const replaced = await openMicrophone('');
  if (!replaced) meter.detach();
});

setInterval(() => {
  const now = performance.now();
  if (meter.level > SILENCE_DB || !microphone.track || isPaused()) loudAt = now;
  const hint = now - loudAt > SILENCE_MS ? 'No sound from this microphone. Is it muted, or is another one meant?' : '';
  if ($('microphone-hint').textContent !== hint) $('microphone-hint').textContent = hint;
  showElapsed(now);
}, 500);

// ---- speaking

$('start').addEventListener('click', () => start());

async function start(how) {
  hideFailure($('failure'));
  if (!microphone.track && !(await openMicrophone())) return;
  mute(false);
  resumeOnAir = leads();
  link.start(whipEndpoint(session.sessionId, language), how);
  $('pause').focus();
}

$('stop').addEventListener('click', () => {
  link.stop();
  mute(false);
  $('start').focus();
});

$('pause').addEventListener('click', () => (isPaused() ? resume() : pause()));

/** The speaker pauses the session; an interpreter only falls silent. */
async function pause() {
  mute(true);
  if (!leads()) return;
  await ask(pauseSession, 'paused');
  mute(false);
}

async function resume() {
  mute(false);
  if (session.status === 'paused') await ask(resumeSession, 'active');
}

async function ask(call, status) {
  $('pause').disabled = true;
  try {
    watch.replace((await call(session.sessionId)) ?? { status });
  } catch (error) {
    fail(error);
  }
  $('pause').disabled = false;
  $('pause').focus();
}

function leads() {
  return language === session.sourceLanguage;
}

function isPaused() {
  return muted || session?.status === 'paused';
}

$('end').addEventListener('click', async () => {
  if (!window.confirm('End the session? Every listener is disconnected, and its link stops working.')) return;
  link.stop();
  watch.stop();
  try {
    await endSession(session.sessionId);
    location.href = '/speak';
  } catch (error) {
    fail(error);
  }
});

function mute(on) {
  muted = on;
  silenceMicrophone();
  showState();
}

function silenceMicrophone() {
  if (microphone.track) microphone.track.enabled = !isPaused();
}

link.addEventListener('state', ({ detail }) => {
  linkState = detail;
  if (detail.phase === 'up') {
    startedAt ??= performance.now();
    hideFailure($('failure'));
    if (resumeOnAir && session.status === 'paused') resume();
    resumeOnAir = false;
  }
  if (detail.phase === 'idle' || detail.phase === 'failed') startedAt = null;
  if (detail.phase === 'failed') failedToStart(detail.error);
  if (detail.phase === 'waiting') fail(detail.error);
  stayAwake(link.running);
  showState();
});

window.addEventListener('beforeunload', (event) => {
  if (link.running) event.preventDefault();
});

watchStats(() => link.leg?.pc, (figures) => showFigures($('figures'), figures));

// ---- what is told

function sessionTold(now) {
  const otherLanguages = now.languages.join() !== session.languages.join();
  session = now;
  if (otherLanguages) offerLanguages();
  const text = String(now.listeners);
  if ($('listeners').textContent !== text) $('listeners').textContent = text;
  silenceMicrophone();
  link.retryNow();
  if ($('failure').dataset.code === 'UNREACHABLE') hideFailure($('failure'));
  showState();
}

function joined({ role }) {
  mayManage = role !== 'listen';
}

function warned(warning) {
  showWarning($('warning'), warning);
}

function sessionLost(error) {
  if ([401, 403, 404, 410].includes(error.status)) {
    link.stop();
    $('columns').hidden = true;
    showWarning($('warning'), null);
    fail(error, () => location.reload());
  } else if (!link.running) fail(error);
}

function failedToStart(error) {
  if (error.code === 'SPEAKER_EXISTS' && secret()) fail(error, () => start({ takeover: true }), 'Take over here');
  else fail(error, () => $('start').click());
}

function showState() {
  const [tone, words] = stateWords();
  $('state').dataset.tone = tone;
  if ($('state-text').textContent !== words) $('state-text').textContent = words;
  const running = link.running;
  $('start').hidden = running || !session;
  $('pause').hidden = !running;
  $('pause').textContent = isPaused() ? 'Resume' : 'Pause';
  $('stop').hidden = !running;
  $('languages').disabled = running;
  $('figures').hidden = !running;
  $('add').hidden = !session || !mayManage;
  $('end').hidden = !session || sessionStorage.getItem(OWN_SESSION) !== session.sessionId;
}

function stateWords() {
  switch (linkState.phase) {
    case 'connecting':
      return ['busy', 'Connecting…'];
    case 'reconnecting':
      return ['busy', 'Connection lost. Connecting again…'];
    case 'waiting':
      return ['bad', linkState.error.code === 'UNREACHABLE' ? 'The relay does not answer. Trying again by itself…' : 'Not on air. Trying again by itself…'];
    case 'shaky':
      return ['busy', 'The connection falters. Holding on…'];
    case 'failed':
      return ['bad', 'Not on air'];
    case 'up':
      return isPaused() ? ['wait', 'Paused: listeners hear silence.'] : ['live', `On air in ${languageName(language)}`];
    default:
      return ['idle', 'Not on air yet'];
  }
}

function showElapsed(now) {
  const seconds = startedAt === null ? 0 : Math.floor((now - startedAt) / 1000);
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, '0'));
  const hours = Math.floor(seconds / 3600);
  const text = hours ? `${hours}:${parts.join(':')}` : parts.join(':').replace(/^0/, '');
  if ($('elapsed').textContent !== text) $('elapsed').textContent = text;
}

function fail(error, onAction, label) {
  showFailure($('failure'), error, onAction, label);
}
