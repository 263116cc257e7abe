// Keeps one leg up: joins, notices loss, restarts ICE, joins again with growing pauses where the old leg stopped, swaps to
// another endpoint or, when the relay asks for it, to another connection make-before-break. Says what it does by `state` events;
// hands out each new leg by a `leg` event (detail `{leg, refreshed}`), and one that is to replace it by `opening`
// (`{old, fresh}`, before its media flows) and `beside` (it does).

import { Refresh } from './refresh.js';
import { Leg } from './whip.js';

const SHAKY_BEFORE_RESTART_MS = 500;
const RESTART_LIMIT_MS = 6000;
const FIRST_AUDIO_LIMIT_MS = 600;
const PAUSES_MS = [300, 1000, 2000, 4000, 8000];
// The relay may ask for a longer pause, up to this.
const LONGEST_ASKED_PAUSE_MS = 60000;
// A relay needs a moment to notice that a speaker's old connection is dead.
const SPEAKER_EXISTS_RETRIES = 6;
// What a refreshed leg has sent by now is played, and what it was given is sent, before it goes.
const RETIRE_MS = 1500;

export class Link extends EventTarget {
  #configure;
  #secret;
  #claim = {};
  #endpoint = null;
  #leg = null;
  #generation = 0;
  #attempt = 0;
  #phase = 'idle';
  #timer;
  #refresh = new Refresh({
    open: (order) => this.#openBeside(order),
    beside: (leg) => this.dispatchEvent(new CustomEvent('beside', { detail: leg })),
    cut: (leg) => this.#cut(leg),
    drop: (leg) => leg.close(),
  });

  /** A speaker's `secret()` answers with the session's resume secret, by which a new leg replaces the one whose path died. */
  constructor(configure, secret = null) {
    super();
    this.#configure = configure;
    this.#secret = secret;
    window.addEventListener('online', () => this.#networkChanged());
    navigator.connection?.addEventListener('change', () => this.#networkChanged());
    window.addEventListener('pagehide', () => this.stop());
  }

  get leg() {
    return this.#leg;
  }

  /** The leg, and the one that is to replace it. */
  get legs() {
    return [this.#leg, this.#refresh.fresh].filter(Boolean);
  }

  get running() {
    return this.#endpoint !== null;
  }

  /** With `takeover`, in the place of whoever publishes there now. */
  start(endpoint, { takeover = false } = {}) {
    this.stop();
    this.#endpoint = endpoint;
    this.#claim = takeover ? this.#owned() : {};
    this.#attempt = 0;
    this.#join();
  }

  stop() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    this.#refresh.stop();
    this.#endpoint = null;
    this.#drop();
    this.#say('idle');
  }

  /** Opens the new leg first and only then drops the old; on failure the old one stays and the error is thrown. */
  async switchTo(endpoint) {
    if (!this.#leg) return this.start(endpoint);
    const generation = ++this.#generation;
    this.#refresh.stop();
    this.#endpoint = endpoint;
    const leg = new Leg(endpoint, this.#configure);
    try {
      await leg.open();
      await leg.firstAudio(FIRST_AUDIO_LIMIT_MS);
    } catch (error) {
      leg.close();
      if (generation !== this.#generation) return;
      this.#endpoint = this.#leg.endpoint;
      throw error;
    }
    // Stopped, switched again, or joined anew because the old leg failed meanwhile: this leg is not wanted any more.
    if (generation !== this.#generation) return leg.close();
    this.#adopt(leg);
  }

  /** The relay wants another leg in the place of this one within so many milliseconds. */
  refresh(order, withinMs) {
    if (this.#leg) this.#refresh.required(order, withinMs);
  }

  /** The relay has moved to the new leg. */
  refreshed() {
    this.#refresh.complete();
  }

  /** Ends the pause before the next attempt: the relay or the network is known to be back. */
  retryNow() {
    if (this.#phase !== 'waiting') return;
    clearTimeout(this.#timer);
    this.#join();
  }

  async #openBeside({ url, ticket }) {
    const leg = new Leg(besideUs(url) ?? this.#endpoint, this.#configure);
    this.dispatchEvent(new CustomEvent('opening', { detail: { old: this.#leg, fresh: leg } }));
    try {
      await leg.open({ ticket });
    } catch (error) {
      leg.close();
      throw Object.assign(error, { ticket });
    }
    leg.addEventListener('down', () => this.#refresh.freshGone(leg));
    return leg;
  }

  /** Null: the old leg is gone, and there is no other. */
  #cut(leg) {
    if (leg) this.#adopt(leg, true);
    else if (this.#leg) this.#lost(this.#leg);
  }

  #networkChanged() {
    this.retryNow();
    if (this.#leg && (this.#phase === 'up' || this.#phase === 'shaky')) this.#restart(this.#leg);
  }

  async #join() {
    const generation = ++this.#generation;
    this.#say(this.#attempt === 0 ? 'connecting' : 'reconnecting');
    const leg = new Leg(this.#endpoint, this.#configure);
    try {
      await leg.open(this.#claim);
    } catch (error) {
      leg.close();
      if (generation === this.#generation) this.#failed(error);
      return;
    }
    if (generation !== this.#generation) return leg.close();
    this.#adopt(leg);
  }

  #adopt(leg, refreshed = false) {
    const old = this.#leg;
    clearTimeout(this.#timer);
    this.#leg = leg;
    this.#attempt = 0;
    this.#claim = {};
    leg.addEventListener('down', () => this.#down(leg));
    leg.addEventListener('shaky', () => this.#shaky(leg));
    leg.addEventListener('steady', () => this.#steady(leg));
    this.dispatchEvent(new CustomEvent('leg', { detail: { leg, refreshed } }));
    if (refreshed) setTimeout(() => old?.close(), RETIRE_MS);
    else old?.close();
    this.#say('up');
  }

  #shaky(leg) {
    if (leg !== this.#leg) return;
    this.#say('shaky');
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#restart(leg), SHAKY_BEFORE_RESTART_MS);
  }

  async #restart(leg) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(leg), RESTART_LIMIT_MS);
    try {
      await leg.restart();
    } catch {
      if (leg === this.#leg && this.#phase === 'shaky') return this.#lost(leg);
    }
    // A path that never faltered is not said to have come back.
    if (leg === this.#leg && this.#phase === 'up') clearTimeout(this.#timer);
  }

  #steady(leg) {
    if (leg !== this.#leg) return;
    clearTimeout(this.#timer);
    this.#say('up');
  }

  #down(leg) {
    if (leg !== this.#leg) return;
    // Its successor is here, or on its way.
    if (!this.#refresh.oldGone()) this.#lost(leg);
  }

  #lost(leg) {
    if (leg !== this.#leg) return;
    clearTimeout(this.#timer);
    this.#refresh.stop();
    // A dead path leaves a leg behind that the relay still believes in: ours to go on from. One that the relay closed is not a
    // speaker's: somebody may have taken over, and two pages that take from each other would never end.
    this.#claim = leg.byRelay && this.#secret ? {} : leg.ticket ? { ticket: leg.ticket } : this.#owned();
    if (this.#claim.ticket) leg.abandon();
    this.#drop();
    this.#attempt = 1;
    this.#join();
  }

  #owned() {
    return { secret: this.#secret?.() ?? null };
  }

  #failed(error) {
    if (error.status === 403 && this.#claim.ticket) {
      // The relay has given the place up: another one is taken, as if for the first time.
      this.#claim = this.#owned();
      return this.#join();
    }
    if (error.code === 'TICKET_INVALID' && this.#claim.secret) {
      // A session of this name, but not the one that this page made.
      this.#claim = {};
      return this.#join();
    }
    if (this.#isFinal(error)) {
      this.#endpoint = null;
      return this.#say('failed', { error });
    }
    const own = PAUSES_MS[Math.min(this.#attempt, PAUSES_MS.length - 1)] * (0.8 + Math.random() * 0.4);
    const pause = Math.max(own, Math.min(error.retryAfterMs ?? 0, LONGEST_ASKED_PAUSE_MS));
    this.#attempt += 1;
    this.#say('waiting', { error, until: performance.now() + pause });
    this.#timer = setTimeout(() => this.#join(), pause);
  }

  #isFinal(error) {
    if (error.code === 'SPEAKER_EXISTS') return this.#attempt === 0 || this.#attempt > SPEAKER_EXISTS_RETRIES;
    return error.status >= 400 && error.status < 500 && error.status !== 408 && error.status !== 429;
  }

  #drop() {
    this.#leg?.close();
    this.#leg = null;
  }

  #say(phase, more = {}) {
    this.#phase = phase;
    this.dispatchEvent(new CustomEvent('state', { detail: { phase, ...more } }));
  }
}

/** A ticket goes to this relay only, wherever an order may point. */
function besideUs(url) {
  try {
    const named = new URL(url, location.href);
    return named.origin === location.origin ? named.pathname + named.search : null;
  } catch {
    return null;
  }
}
