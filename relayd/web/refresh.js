// A refresh: the relay asks for a new leg beside the old one, which goes on until the new one has taken over. Brings the new
// one up, tries again until the deadline, and says when the old one may go. Knows nothing of legs: opening one, timers and
// chance come from outside, so that Node tests it as it is.
//
//   state      order      opened     refused    told complete  old gone   new gone
//   idle       → opening  –          –          –              –          –
//   opening    newest     → beside   → waiting  remembered     remembered –
//   waiting    newest     –          –          –              – (rejoin) –
//   beside     newest     –          –          cut → idle     cut → idle → waiting
//
// `newest`: several orders are one; the next attempt goes by the last of them.

import { pauseBefore } from './events.js';

export class Refresh {
  #does;
  #random;
  #clock;
  #phase = 'idle';
  #order = null;
  #attempt = 0;
  #fresh = null;
  #over = false;
  #timer;
  #generation = 0;

  /**
   * `open(order)` resolves with a leg whose media flows, `beside(leg)` hears of it, `cut(leg)` makes it the only one,
   * `drop(leg)` ends one that is not wanted.
   */
  constructor({ open, beside = () => {}, cut, drop }, { random = Math.random, clock = Date.now } = {}) {
    this.#does = { open, beside, cut, drop };
    this.#random = random;
    this.#clock = clock;
  }

  get phase() {
    return this.#phase;
  }

  /** The leg that has come beside the old one, or null. */
  get fresh() {
    return this.#fresh;
  }

  /** `connectionRefreshRequired`: `{url, ticket}`, and for how many milliseconds from now. */
  required(order, withinMs) {
    this.#order = { ...order, until: this.#clock() + withinMs };
    if (this.#phase !== 'idle') return;
    this.#attempt = 0;
    this.#try();
  }

  /** `connectionRefreshComplete`: nothing more comes by the old leg, or is taken from it. */
  complete() {
    if (this.#phase === 'beside') this.#finish();
    else if (this.#phase === 'opening') this.#over = true;
  }

  /** The old leg is over. Answers whether the new one takes its place, now or as soon as it is up. */
  oldGone() {
    if (this.#phase === 'beside') {
      this.#finish();
      return true;
    }
    if (this.#phase !== 'opening') return false;
    this.#over = true;
    return true;
  }

  /** The new leg is over before it took the old one's place: another is tried. */
  freshGone(leg) {
    if (leg !== this.#fresh) return;
    this.#does.drop(leg);
    this.#fresh = null;
    this.#again();
  }

  /** Whatever was begun is not wanted any more. */
  stop() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    if (this.#fresh) this.#does.drop(this.#fresh);
    this.#reset();
  }

  async #try() {
    const generation = this.#generation;
    this.#phase = 'opening';
    let leg;
    try {
      leg = await this.#does.open(this.#order);
    } catch (error) {
      if (generation === this.#generation) this.#refused(error);
      return;
    }
    if (generation !== this.#generation) return this.#does.drop(leg);
    this.#fresh = leg;
    this.#phase = 'beside';
    this.#does.beside(leg);
    if (this.#over) this.#finish();
  }

  #refused(error) {
    // The ticket is used up or too old: nothing to try again with, unless there is a newer order.
    if (error.status === 403 && error.ticket === this.#order.ticket) return this.#giveUp();
    this.#again();
  }

  #again() {
    this.#attempt += 1;
    const pause = pauseBefore(this.#attempt, this.#random);
    if (this.#over || this.#clock() + pause >= this.#order.until) return this.#giveUp();
    this.#phase = 'waiting';
    this.#timer = setTimeout(() => this.#try(), pause);
  }

  #giveUp() {
    const orphaned = this.#over;
    this.#reset();
    // The old leg went while the new one was on its way, and the new one did not come.
    if (orphaned) this.#does.cut(null);
  }

  #finish() {
    const leg = this.#fresh;
    this.#reset();
    this.#does.cut(leg);
  }

  #reset() {
    clearTimeout(this.#timer);
    this.#phase = 'idle';
    this.#fresh = null;
    this.#order = null;
    this.#over = false;
  }
}
