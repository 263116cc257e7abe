// Two legs that bring the same sound: lets the new one's player begin where the old one's is. Where the browser cannot look at
// frames, the new leg just plays all that it gets.

const TELL_MS = 20;

export class Overlap {
  #worker = null;
  #numbers = new WeakMap();
  #count = 0;
  #telling;

  /** Call before the new leg is opened. */
  begin(old, fresh) {
    this.end();
    if (!('RTCRtpScriptTransform' in window)) return;
    this.#worker ??= new Worker('/web/splice-worker.js', { type: 'module' });
    const begin = { old: this.#number(old), fresh: this.#number(fresh) };
    this.#worker.postMessage({ begin });
    const receiver = receiverOf(old);
    this.#telling = setInterval(() => {
      const [source] = receiver.getSynchronizationSources();
      if (source) this.#worker.postMessage({ played: source.rtpTimestamp });
    }, TELL_MS);
  }

  /** The old leg is over, or the new one is. */
  end() {
    clearInterval(this.#telling);
    this.#worker?.postMessage({ release: true });
  }

  /** Its frames pass the worker from now on. */
  #number(leg) {
    if (!this.#numbers.has(leg)) {
      this.#count += 1;
      this.#numbers.set(leg, this.#count);
      receiverOf(leg).transform = new RTCRtpScriptTransform(this.#worker, { leg: this.#count });
    }
    return this.#numbers.get(leg);
  }
}

const receiverOf = ({ pc }) => pc.getTransceivers()[0].receiver;
