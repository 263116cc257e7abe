// Every failure in words: what happened, and what the person can do about it.

/** What is wrong with this browser or page before anything is tried; null when all is well. */
export function unsupported({ microphone }) {
  if (!('RTCPeerConnection' in window)) return { code: 'NO_WEBRTC' };
  if (microphone && !window.isSecureContext) return { code: 'INSECURE_CONTEXT' };
  if (microphone && !navigator.mediaDevices?.getUserMedia) return { code: 'NO_WEBRTC' };
  return null;
}

/** `{title, text, action}` for an error of `api.js`, `whip.js`, getUserMedia or `unsupported`. */
export function explain(error) {
  const known = BY_CODE[error.code] ?? BY_NAME[error.name] ?? other;
  const words = known({ name: error.name, title: error.title, message: sentence(error.message ?? '') });
  return { action: 'Try again', ...words };
}

/** A problem document's `detail` as a sentence: it comes in lower case and without a full stop. */
function sentence(text) {
  const whole = text && text[0].toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) || !whole ? whole : `${whole}.`;
}

const BY_CODE = {
  NO_WEBRTC: () => ({
    title: 'This browser has no live audio',
    text: 'It lacks WebRTC, or it is switched off. Open this page in a current Chrome, Edge, Firefox or Safari.',
    action: null,
  }),
  INSECURE_CONTEXT: () => ({
    title: 'The microphone needs a secure page',
    text: `Browsers give the microphone only to https:// pages and to this machine itself. Open the page by https://, or on the relay’s own machine as ${localAddress()}.`,
    action: null,
  }),
  SESSION_NOT_FOUND: (error) => ({
    title: 'There is no such session',
    text: `${error.message} Check the link, or ask the speaker for a new one: a session is gone once it has ended or the relay has restarted.`,
  }),
  SESSION_ENDED: (error) => ({
    title: 'The session has ended',
    text: `${error.message} There is nothing more to hear. For a next one, ask the speaker for its link.`,
    action: null,
  }),
  LANGUAGE_NOT_FOUND: (error) => ({
    title: 'The session does not have this language',
    text: `${error.message} Choose one of the languages shown.`,
    action: null,
  }),
  SPEAKER_EXISTS: (error) => ({
    title: 'Somebody is already speaking',
    text: `${error.message} Only one speaker at a time is heard. If it is you in another tab or on another device, stop there, then try again here.`,
  }),
  UNAUTHORIZED: (error) => ({
    title: 'This page needs a valid link',
    text: `${error.message} Open the link you were given again, or ask whoever runs the session for a new one.`,
    action: null,
  }),
  FORBIDDEN: (error) => ({
    title: 'Your link does not allow this',
    text: `${error.message} Ask whoever gave it to you for one that does.`,
    action: null,
  }),
  INVALID_STATUS: (error) => ({ title: 'That does not fit just now', text: error.message, action: null }),
  RATE_LIMITED: (error) => ({ title: 'Too many tries', text: `${error.message} Wait a moment, then try again.` }),
  CAPACITY: (error) => ({ title: 'The relay is full', text: `${error.message} Try again in a minute.` }),
  DRAINING: (error) => ({ title: 'The relay is about to stop', text: `${error.message} Try again in a minute.` }),
  UNREACHABLE: () => ({
    title: 'The relay does not answer',
    text: 'Check that you are online. If others cannot reach it either, whoever runs the relay has to start it again.',
  }),
  MEDIA_PATH: () => ({
    title: 'No way through for the audio',
    text: firefoxAtHome()
      ? 'Firefox makes no live connection to its own machine (127.0.0.1) unless media.peerconnection.ice.loopback is true in about:config. Set it and try again, or use another browser.'
      : 'The relay answers, but its media port (UDP) cannot be reached from here. Another network, or leaving the VPN, usually helps; the relay’s operator can check the firewall.',
  }),
};

const BY_NAME = {
  NotAllowedError: (error) =>
    /system/i.test(error.message)
      ? {
          title: 'The system keeps the microphone from the browser',
          text: 'Allow this browser to use the microphone in the privacy settings of your system, then try again.',
        }
      : {
          title: 'The microphone is blocked',
          text: 'Allow it for this page: choose the icon at the left of the address bar, set Microphone to Allow, then try again.',
        },
  NotFoundError: () => ({
    title: 'No microphone found',
    text: 'Connect one, or switch it on; it is picked up by itself.',
  }),
  NotReadableError: () => ({
    title: 'The microphone is in use',
    text: 'Another program holds it. Close that program or choose another microphone, then try again.',
  }),
  OverconstrainedError: () => ({
    title: 'That microphone is gone',
    text: 'Connect it again or choose another one.',
  }),
};
BY_NAME.AbortError = BY_NAME.NotReadableError;
BY_NAME.SecurityError = BY_NAME.NotAllowedError;

function other(error) {
  return {
    title: error.title || 'Something went wrong',
    text: `${error.message} Try again; if it stays, reload the page or tell whoever runs the relay.`,
  };
}

function firefoxAtHome() {
  return /Firefox/.test(navigator.userAgent) && ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
}

function localAddress() {
  return `http://localhost${location.port ? `:${location.port}` : ''}${location.pathname}`;
}

/**
 * Shows an error in a `.notice` element, with a button when something can be done at once; the same one only once.
 * `label` is what the button says where trying again is not what it does.
 */
export function showFailure(notice, error, onAction, label) {
  const { title, text, action: usual } = explain(error);
  const action = label ?? usual;
  if (!notice.hidden && notice.dataset.title === title && notice.dataset.text === text) return;
  Object.assign(notice.dataset, { title, text });
  const heading = Object.assign(document.createElement('strong'), { textContent: title });
  const body = Object.assign(document.createElement('p'), { textContent: text });
  notice.replaceChildren(heading, body);
  notice.dataset.code = error.code ?? error.name;
  if (action && onAction) {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: action });
    button.className = 'button';
    button.addEventListener('click', onAction);
    notice.append(button);
  }
  notice.hidden = false;
}

/** Says that the right to be here ends soon; `warning` is what `connectionWarning` carries, or null when it is renewed. */
export function showWarning(notice, warning) {
  notice.hidden = !warning;
  if (!warning) return;
  const minutes = Math.max(1, Math.round(warning.remainingMinutes));
  const heading = Object.assign(document.createElement('strong'), {
    textContent: `Your link ends in ${minutes} ${minutes === 1 ? 'minute' : 'minutes'}`,
  });
  const text = 'Ask whoever gave it to you for a new one and open it in this tab: the sound goes on meanwhile.';
  notice.replaceChildren(heading, Object.assign(document.createElement('p'), { textContent: text }));
}

export function hideFailure(notice) {
  notice.hidden = true;
  notice.replaceChildren();
}
