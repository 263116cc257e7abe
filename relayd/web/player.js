// What a listener hears. One audio element is heard; a second may play beside it unheard and take its place in one step.

const DRAIN_MS = 400;

export class Player {
  #heard;
  #spare;
  #leaving;

  /** `element` is an `<audio>`; the other one is its like. */
  constructor(element) {
    this.#heard = element;
    this.#spare = element.cloneNode();
    this.#spare.removeAttribute('id');
    this.#spare.muted = true;
  }

  set volume(volume) {
    this.#heard.volume = volume;
    this.#spare.volume = volume;
  }

  /** Plays this from now on; rejects when the browser holds the sound back. */
  play(stream) {
    this.#heard.srcObject = stream;
    return this.#heard.play();
  }

  /** Plays this too, unheard, so that it runs when its time comes. */
  prepare(stream) {
    clearTimeout(this.#leaving);
    this.#spare.srcObject = stream;
    // An unheard element may always play.
    return this.#spare.play().catch(() => {});
  }

  /** What was prepared is heard, what was heard is not; answers with false when nothing is prepared. */
  swap() {
    if (!this.#spare.srcObject) return false;
    [this.#heard, this.#spare] = [this.#spare, this.#heard];
    this.#heard.muted = false;
    this.#spare.muted = true;
    const leaving = this.#spare;
    this.#leaving = setTimeout(() => (leaving.srcObject = null), DRAIN_MS);
    return true;
  }

  /** What was prepared is not wanted any more. */
  forget() {
    this.#spare.srcObject = null;
  }

  stop() {
    clearTimeout(this.#leaving);
    this.#heard.srcObject = null;
    this.#spare.srcObject = null;
  }
}
