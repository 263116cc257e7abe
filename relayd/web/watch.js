// Follows a session: by its events, and by asking again and again while no events come.

import { ProblemError, getSession } from './api.js';
import { Events, eventsUrl } from './events.js';
import { applyEvent } from './session.js';
import { onRenewed, token } from './token.js';

const POLL_MS = 2000;
const PATIENCE_MS = 1200;

let renew = null;
// A page that stands still for want of a good token begins anew with the next one.
onRenewed(() => (renew ? renew() : location.reload()));

/**
 * Calls `told(session, event)` on every change (`event` is null when there is none to name), `lost(error)` when the session
 * is over or the relay does not answer, `warned({remainingMinutes, expiresAt} | null)` before a token ends and once it is
 * renewed, `joined(welcome)` at each connection. With a `link`, its leg is named to the relay, whose orders to replace that leg
 * it then gets. Answers with `{stop(), replace(session)}`.
 */
export function watchSession(first, { told, lost, warned = () => {}, joined = () => {}, link = null }) {
  const id = first.sessionId;
  let session = first;
  let over = false;
  let renewed = false;
  let timer = null;
  const events = new Events(eventsUrl(id), { token, leg: () => link?.leg?.id ?? null });

  events.addEventListener('up', ({ detail }) => {
    timer = clearTimeout(timer);
    joined(detail);
    if (renewed) sendToken();
    told(session, null);
  });
  events.addEventListener('down', () => timer ?? pollIn(PATIENCE_MS));
  // Refused for good: what is wrong with the session or with us, the next answer says.
  events.addEventListener('stopped', () => pollIn(0));
  events.addEventListener('event', ({ detail: event }) => {
    if (over) return;
    // A connection that is to be replaced is the relay's and our business; nobody needs to do anything.
    if (event.t === 'connectionWarning' && event.d.reason === 'tokenExpiry') warned(event.d);
    if (event.t === 'connectionRefreshRequired') link?.refresh(event.d, event.d.deadline - event.ts);
    if (event.t === 'connectionRefreshComplete') link?.refreshed();
    if (event.t === 'tokenRefreshed') warned(null);
    session = applyEvent(session, event);
    if (session.status === 'ended') return end(ended(id));
    told(session, event);
  });
  const online = () => events.retryNow();
  const legChanged = () => events.legChanged();
  window.addEventListener('online', online);
  link?.addEventListener('leg', legChanged);
  renew = sendToken;
  pollIn(PATIENCE_MS);
  events.start();

  function sendToken() {
    renewed = !events.up;
    if (events.up) events.refreshToken(token());
    else events.retryNow();
  }

  function pollIn(ms) {
    clearTimeout(timer);
    if (!over) timer = setTimeout(poll, ms);
  }

  async function poll() {
    try {
      const found = await getSession(id);
      if (over || events.up) return;
      session = found;
      told(session, null);
    } catch (error) {
      if (over || events.up) return;
      if ([401, 403, 404, 410].includes(error.status)) return end(error);
      lost(error);
    }
    pollIn(document.hidden ? POLL_MS * 3 : POLL_MS);
  }

  function end(error) {
    stop();
    lost(error);
  }

  function stop() {
    over = true;
    renew = null;
    clearTimeout(timer);
    window.removeEventListener('online', online);
    link?.removeEventListener('leg', legChanged);
    events.stop();
  }

  /** What an answer of the relay told meanwhile. */
  function replace(now) {
    session = { ...session, ...now };
    told(session, null);
  }

  return { stop, replace };
}

const ended = (id) => new ProblemError(410, { code: 'SESSION_ENDED', detail: `The session ${id} has ended.` });
