// A session's events over one WebSocket (`relay.v1+json`): hello, resume, heartbeats, and connecting again by itself.
// Knows nothing of pages; sockets, timers and chance come from outside, so that Node tests it as it is.

export const PROTOCOL = 'relay.v1+json';
const CONNECT_LIMIT_MS = 8000;
const DEAD_AFTER_HEARTBEATS = 2.5;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
// A connection that held so long was a good one: the next loss is tried again at once.
const GOOD_AFTER_MS = 10000;

const CLOSE = {
  AUTHENTICATION_FAILED: 4004,
  SESSION_GONE: 4006,
  TOO_MUCH: 4008,
  TAKEN_OVER: 4010,
  VERSION: 4012,
  DRAINING: 4013,
};
const FINAL = new Set([CLOSE.AUTHENTICATION_FAILED, CLOSE.SESSION_GONE, CLOSE.TAKEN_OVER, CLOSE.VERSION]);
// What the connection itself says; everything else is the session's.
const OWN = new Set(['welcome', 'heartbeat', 'heartbeatAck']);

/** The address of a session's events beside this page. */
export function eventsUrl(id, page = location) {
  const scheme = page.protocol === 'https:' ? 'wss:' : 'ws:';
  return `${scheme}//${page.host}/v1/sessions/${encodeURIComponent(id)}/events`;
}

/** How long to wait before attempt `n` (0 is the first after a loss): full jitter over 0, 0.3, 0.6, 1.2 … 5 s. */
export function pauseBefore(n, random = Math.random) {
  if (n === 0) return 0;
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (n - 1)) * random();
}

/**
 * Events: `up` (detail: what `welcome` said), `down` (connecting again by itself), `stopped` (detail `{code, reason}`: the
 * relay wants nobody back), and `event` (detail `{t, seq, ts, d}`) for each of the session's, `sessionJoined`, `resync`,
 * `tokenRefreshed` and `error` included.
 */
export class Events extends EventTarget {
  #url;
  #token;
  #leg;
  #named = null;
  #connect;
  #random;
  #socket = null;
  #phase = 'idle';
  #resume = null;
  #resuming = false;
  #seq = null;
  #attempt = 0;
  #period = 10000;
  #timers = new Map();

  /**
   * `token` is a function: what it answers at each connection is what is sent; null for none. So is `leg`: the name of this
   * client's own media connection, whose events are then told here, too.
   */
  constructor(url, { token = () => null, leg = () => null, connect = (to) => new WebSocket(to, PROTOCOL), random = Math.random } = {}) {
    super();
    this.#url = url;
    this.#token = token;
    this.#leg = leg;
    this.#connect = connect;
    this.#random = random;
  }

  /** Whether events arrive now. */
  get up() {
    return this.#phase === 'up';
  }

  /** The last event's number: what a resumed connection goes on after. */
  get seq() {
    return this.#seq;
  }

  start() {
    if (this.#phase === 'idle') this.#open();
  }

  /** Ends it for good, without an event. */
  stop() {
    this.#phase = 'idle';
    this.#attempt = 0;
    this.#leave();
  }

  /** Ends the pause before the next attempt: the network is known to be back. */
  retryNow() {
    if (this.#phase === 'waiting') this.#open();
  }

  /** The media connection may be another one: if it is, the events are asked for anew, with its name. Nothing is missed. */
  legChanged() {
    const leg = this.#leg();
    if (leg && leg !== this.#named && (this.up || this.#phase === 'connecting')) this.#open();
  }

  /** Sends a newer token in band: the connection, and the legs of the same person, live as long as it says. */
  refreshToken(token) {
    if (this.up) this.#send('token.refresh', { token });
  }

  #open() {
    this.#leave();
    this.#phase = 'connecting';
    let socket;
    try {
      socket = this.#connect(this.#url);
    } catch {
      return this.#lost({ code: 1006, reason: '' });
    }
    this.#socket = socket;
    const mine = (handle) => (event) => socket === this.#socket && handle(event);
    socket.addEventListener('open', mine(() => this.#hello()));
    socket.addEventListener('message', mine(({ data }) => this.#heard(data)));
    socket.addEventListener('close', mine((event) => this.#lost(event)));
    this.#after('dead', CONNECT_LIMIT_MS, () => this.#lost({ code: 1006, reason: 'no answer' }));
  }

  #hello() {
    this.#resuming = this.#resume !== null;
    const token = this.#token();
    this.#named = this.#leg();
    const who = this.#resuming ? { resume: this.#resume } : token ? { token } : {};
    this.#send('hello', {
      ...who,
      ...(this.#named && { leg: this.#named }),
      ...(this.#seq !== null && { seq: this.#seq }),
    });
  }

  #heard(data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof frame?.t !== 'string') return;
    if (this.#phase === 'up') this.#listenOn();
    // Every frame carries the number of the last event before it or in it. After a restart of the relay they begin anew.
    if (Number.isSafeInteger(frame.seq)) this.#seq = frame.seq;
    if (frame.t === 'welcome') this.#welcomed(frame.d ?? {});
    if (!OWN.has(frame.t)) this.dispatchEvent(new CustomEvent('event', { detail: frame }));
  }

  #welcomed(welcome) {
    this.#phase = 'up';
    this.#resuming = false;
    this.#resume = welcome.resume ?? null;
    if (welcome.heartbeatMs > 0) this.#period = welcome.heartbeatMs;
    this.#listenOn();
    this.#beat();
    this.#after('good', GOOD_AFTER_MS, () => (this.#attempt = 0));
    this.dispatchEvent(new CustomEvent('up', { detail: welcome }));
  }

  #beat() {
    this.#after('beat', this.#period, () => {
      this.#send('heartbeat', { seq: this.#seq ?? 0 });
      this.#beat();
    });
  }

  #listenOn() {
    this.#after('dead', this.#period * DEAD_AFTER_HEARTBEATS, () => this.#lost({ code: 1006, reason: 'silence' }));
  }

  #lost({ code, reason }) {
    const wasUp = this.up;
    this.#leave();
    if (code === CLOSE.AUTHENTICATION_FAILED && this.#resuming) {
      // The ticket is too old; the token may still be good.
      this.#resume = null;
    } else if (FINAL.has(code)) {
      this.#phase = 'stopped';
      this.dispatchEvent(new CustomEvent('stopped', { detail: { code, reason } }));
      return;
    }
    if (code === CLOSE.DRAINING && wasUp) {
      this.#attempt = 0;
      this.#url = elsewhere(reason, this.#url);
    } else if (code === CLOSE.TOO_MUCH) this.#attempt = Math.max(this.#attempt, 3);
    this.#phase = 'waiting';
    this.#after('retry', pauseBefore(this.#attempt, this.#random), () => this.#open());
    this.#attempt += 1;
    this.dispatchEvent(new Event('down'));
  }

  #send(t, d) {
    try {
      this.#socket.send(JSON.stringify({ t, d }));
    } catch {
      // Closing already: its `close` event says the rest.
    }
  }

  #leave() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #after(name, ms, act) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(act, ms));
  }
}

/** Where a draining relay sends us, if that is on this origin: a token goes nowhere else. */
function elsewhere(reason, url) {
  try {
    const named = new URL(/^wss?:\/\//.test(reason) ? reason : JSON.parse(reason).url);
    return named.origin === new URL(url).origin ? named.href : url;
  } catch {
    return url;
  }
}
