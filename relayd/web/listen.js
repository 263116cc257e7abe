// The listening page: which session, which language, play and stop, and how it goes.

import { getSession, pathParts, whepEndpoint } from './api.js';
import { stayAwake } from './awake.js';
import { hideFailure, showFailure, showWarning, unsupported } from './failure.js';
import { languageChoice, languageName } from './languages.js';
import { Link } from './link.js';
import { Meter } from './meter.js';
import { Overlap } from './overlap.js';
import { Player } from './player.js';
import { showFigures, watchStats } from './stats.js';
import { watchSession } from './watch.js';

const QUIET_SECONDS = 3;

const $ = (id) => document.getElementById(id);
const [, sessionId, wantedLanguage] = pathParts();

const player = new Player($('audio'));
const overlap = new Overlap();
const meter = new Meter($('meter'));
const link = new Link((pc) => pc.addTransceiver('audio', { direction: 'recvonly' }));
let session = null;
let language = null;
let heardLanguage = null;
let linkState = { phase: 'idle' };
let unreachable = false;
let quietSeconds = 0;

if (sessionId) openSession();
else showJoinForm();

async function openSession() {
  hideFailure($('failure'));
  const problem = unsupported({ microphone: false });
  if (problem) return fail(problem);
  try {
    session = await getSession(sessionId);
  } catch (error) {
    if (error.status === 404) showJoinForm();
    return fail(error, openSession);
  }
  $('join').hidden = true;
  $('player').hidden = false;
  $('title').textContent = session.sessionId;
  document.title = `${session.sessionId} · Listen`;
  chooseFirstLanguage();
  watchSession(session, { told: sessionTold, lost: sessionLost, warned: (warning) => showWarning($('warning'), warning), link });
  watchStats(() => link.leg?.pc, figuresCame);
  showState();
}

function chooseFirstLanguage() {
  const given = session.languages.find((tag) => tag.toLowerCase() === wantedLanguage?.toLowerCase());
  if (wantedLanguage && !given) {
    const detail = `The session ${session.sessionId} is not held in ${languageName(wantedLanguage)}.`;
    fail({ code: 'LANGUAGE_NOT_FOUND', message: detail });
  }
  language = given ?? session.sourceLanguage;
  offerLanguages();
}

function offerLanguages() {
  $('languages').hidden = session.languages.length < 2;
  languageChoice($('languages'), session.languages, language, changeLanguage);
}

/** Languages come and go while somebody listens. */
function offerOther() {
  if (!session.languages.includes(language)) {
    fail({ code: 'LANGUAGE_NOT_FOUND', message: `${languageName(language)} is not spoken here any more.` });
    language = session.sourceLanguage;
    if (link.running) link.switchTo(whepEndpoint(sessionId, language)).catch((error) => fail(error));
  }
  offerLanguages();
}

async function changeLanguage(tag) {
  language = tag;
  hideFailure($('failure'));
  history.replaceState(null, '', `/listen/${encodeURIComponent(sessionId)}/${encodeURIComponent(tag)}`);
  showState();
  if (!link.running) return;
  try {
    await link.switchTo(whepEndpoint(sessionId, tag));
  } catch (error) {
    fail(error);
    language = heardLanguage;
    offerLanguages();
  }
  showState();
}

$('play').addEventListener('click', () => {
  if (link.running) return link.stop();
  hideFailure($('failure'));
  link.start(whepEndpoint(sessionId, language));
});

$('volume').addEventListener('input', ({ target }) => {
  player.volume = target.value;
});

link.addEventListener('opening', ({ detail: { old, fresh } }) => overlap.begin(old, fresh));

link.addEventListener('beside', ({ detail: leg }) => player.prepare(leg.stream));

link.addEventListener('leg', ({ detail: { leg, refreshed } }) => {
  overlap.end();
  heardLanguage = decodeURIComponent(leg.endpoint.split('/').at(-1));
  // Chromium feeds an analyser from a remote stream only while an audio element plays that stream.
  const playing = refreshed && player.swap() ? Promise.resolve() : player.play(leg.stream);
  playing.catch(() => fail({ title: 'The browser holds the sound back', message: 'Press Stop, then Play.' }));
  meter.attach(leg.stream);
  quietSeconds = 0;
});

link.addEventListener('state', ({ detail }) => {
  linkState = detail;
  const stopped = detail.phase === 'idle' || detail.phase === 'failed';
  if (stopped) silence();
  stayAwake(!stopped);
  if (detail.phase === 'failed') fail(detail.error, () => $('play').click());
  else if (detail.phase === 'waiting') fail(detail.error);
  else if (detail.phase === 'up' || detail.phase === 'idle') hideFailure($('failure'));
  showState();
});

function silence() {
  player.stop();
  meter.detach();
  showFigures($('figures'), null);
}

function sessionTold(now) {
  const changed = now.languages.join() !== session.languages.join();
  session = now;
  if (changed) offerOther();
  if (unreachable) {
    unreachable = false;
    link.retryNow();
  }
  showState();
}

function sessionLost(error) {
  unreachable = error.code === 'UNREACHABLE';
  if ([401, 403, 404, 410].includes(error.status)) {
    link.stop();
    showWarning($('warning'), null);
    fail(error, () => location.reload());
    $('player').hidden = true;
    $('figures').hidden = true;
  }
  showState();
}

function figuresCame(figures) {
  showFigures($('figures'), figures);
  quietSeconds = figures.received > 0 ? 0 : quietSeconds + 1;
  showState();
}

function showState() {
  const [tone, words] = stateWords();
  $('state').dataset.tone = tone;
  if ($('state-text').textContent !== words) $('state-text').textContent = words;
  const running = link.running;
  $('play').classList.toggle('running', running);
  $('play-text').textContent = running ? 'Stop' : 'Play';
  $('figures').hidden = !running;
}

function stateWords() {
  const speaking = session?.tracks?.find((track) => track.language === language)?.speakerConnected ?? session?.speakerConnected;
  const name = languageName(language);
  switch (linkState.phase) {
    case 'connecting':
      return ['busy', 'Connecting…'];
    case 'reconnecting':
      return ['busy', 'Connection lost. Connecting again…'];
    case 'waiting':
      return ['bad', linkState.error.code === 'UNREACHABLE' ? 'The relay does not answer. Trying again by itself…' : 'Not connected. Trying again by itself…'];
    case 'shaky':
      return ['busy', 'The connection falters. Holding on…'];
    case 'failed':
      return ['bad', 'Not connected'];
    case 'up':
      if (session.status === 'paused') return ['wait', 'Connected. The speaker pauses…'];
      if (!speaking) return ['wait', `Connected. Waiting for the ${name} speaker…`];
      if (quietSeconds >= QUIET_SECONDS) return ['wait', 'Connected. No sound arrives just now.'];
      return ['live', `Live in ${name}`];
    default:
      if (unreachable) return ['bad', 'The relay does not answer. Check that you are online.'];
      if (session?.status === 'paused') return ['idle', 'The speaker pauses. Press Play to be there when they go on.'];
      return speaking ? ['idle', 'The speaker is live. Press Play to listen.'] : ['idle', 'Nobody speaks yet. Press Play to be there when they begin.'];
  }
}

function fail(error, onAction) {
  showFailure($('failure'), error, onAction);
}

$('join').addEventListener('submit', (event) => {
  event.preventDefault();
  location.href = `/listen/${encodeURIComponent($('join-session').value.trim())}`;
});

async function showJoinForm() {
  $('join').hidden = false;
  const demo = await getSession('demo').catch(() => null);
  $('join-demo').hidden = !demo;
}
