// Keeps one leg up: joins, notices loss, restarts ICE, joins again with growing pauses, swaps to another endpoint
// make-before-break. Says what it does by `state` events and hands out each new leg by a `leg` event.

import { Leg } from './whip.js';

const SHAKY_BEFORE_RESTART_MS = 1500;
const RESTART_LIMIT_MS = 6000;
const FIRST_AUDIO_LIMIT_MS = 600;
const PAUSES_MS = [300, 1000, 2000, 4000, 8000];
// The relay may ask for a longer pause, up to this.
const LONGEST_ASKED_PAUSE_MS = 60000;
// A relay needs a moment to notice that a speaker's old connection is dead.
const SPEAKER_EXISTS_RETRIES = 6;

export class Link extends EventTarget {
  #configure;
  #secret;
  #claim = null;
  #endpoint = null;
  #leg = null;
  #generation = 0;
  #attempt = 0;
  #phase = 'idle';
  #timer;

  /** `secret()` answers with the session's resume secret, by which a new leg replaces the one whose path died. */
  constructor(configure, secret = () => null) {
    super();
    this.#configure = configure;
    this.#secret = secret;
    window.addEventListener('online', () => this.retryNow());
    window.addEventListener('pagehide', () => this.stop());
  }

  get leg() {
    return this.#leg;
  }

  get running() {
    return this.#endpoint !== null;
  }

  /** With `takeover`, in the place of whoever publishes there now. */
  start(endpoint, { takeover = false } = {}) {
    this.stop();
    this.#endpoint = endpoint;
    this.#claim = takeover ? this.#secret() : null;
    this.#attempt = 0;
    this.#join();
  }

  stop() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    this.#endpoint = null;
    this.#drop();
    this.#say('idle');
  }

  /** Opens the new leg first and only then drops the old; on failure the old one stays and the error is thrown. */
  async switchTo(endpoint) {
    if (!this.#leg) return this.start(endpoint);
    const generation = ++this.#generation;
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

  /** Ends the pause before the next attempt: the relay or the network is known to be back. */
  retryNow() {
    if (this.#phase !== 'waiting') return;
    clearTimeout(this.#timer);
    this.#join();
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

  #adopt(leg) {
    const old = this.#leg;
    clearTimeout(this.#timer);
    this.#leg = leg;
    this.#attempt = 0;
    this.#claim = null;
    leg.addEventListener('down', () => this.#lost(leg));
    leg.addEventListener('shaky', () => this.#shaky(leg));
    leg.addEventListener('steady', () => this.#steady(leg));
    this.dispatchEvent(new CustomEvent('leg', { detail: leg }));
    old?.close();
    this.#say('up');
  }

  #shaky(leg) {
    if (leg !== this.#leg) return;
    this.#say('shaky');
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      this.#timer = setTimeout(() => this.#lost(leg), RESTART_LIMIT_MS);
      try {
        await leg.restart();
      } catch {
        if (this.#phase === 'shaky') this.#lost(leg);
      }
    }, SHAKY_BEFORE_RESTART_MS);
  }

  #steady(leg) {
    if (leg !== this.#leg) return;
    clearTimeout(this.#timer);
    this.#say('up');
  }

  #lost(leg) {
    if (leg !== this.#leg) return;
    clearTimeout(this.#timer);
    // A dead path leaves a leg behind that the relay still believes in: ours to replace. One that the relay closed is not:
    // somebody may have taken over, and two pages that take from each other would never end.
    this.#claim = leg.byRelay ? null : this.#secret();
    this.#drop();
    this.#attempt = 1;
    this.#join();
  }

  #failed(error) {
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
