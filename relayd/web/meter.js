// A live level meter: the last seconds of a stream's loudness, drawn on a canvas, and said to screen readers.

const FLOOR_DB = -60;
const LOUD_DB = -3;
const BAR_PX = 3;
const GAP_PX = 2;
const BAR_MS = 60;
const SPOKEN_EVERY_MS = 1000;

export class Meter {
  #canvas;
  #context;
  #analyser;
  #source;
  #samples;
  #bars = [];
  #peak = FLOOR_DB;
  #barSince = 0;
  #spokenAt = 0;
  #colours;

  /** `canvas` carries role="meter"; its CSS size decides how many bars there are. */
  constructor(canvas) {
    this.#canvas = canvas;
    this.level = FLOOR_DB;
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const repaint = () => {
      this.#readColours();
      this.#draw();
    };
    scheme.addEventListener('change', repaint);
    new ResizeObserver(repaint).observe(canvas);
  }

  /** Measures `stream` from now on. Call from a user gesture, or the browser keeps the audio clock stopped. */
  attach(stream) {
    this.#context ??= new AudioContext({ latencyHint: 'interactive' });
    this.#context.resume();
    this.#source?.disconnect();
    if (!this.#analyser) {
      this.#analyser = this.#context.createAnalyser();
      this.#analyser.fftSize = 2048;
      this.#samples = new Float32Array(this.#analyser.fftSize);
      this.#tick();
    }
    this.#source = this.#context.createMediaStreamSource(stream);
    this.#source.connect(this.#analyser);
  }

  detach() {
    this.#source?.disconnect();
    this.#source = null;
  }

  #tick = () => {
    requestAnimationFrame(this.#tick);
    const now = performance.now();
    this.level = this.#source ? this.#measure() : FLOOR_DB;
    this.#peak = Math.max(this.#peak, this.level);
    if (now - this.#barSince < BAR_MS) return;
    this.#barSince = now;
    this.#bars.push(this.#peak);
    this.#peak = FLOOR_DB;
    this.#draw();
    if (now - this.#spokenAt > SPOKEN_EVERY_MS) this.#speak(now);
  };

  #measure() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    const rms = Math.sqrt(sum / this.#samples.length);
    return Math.max(FLOOR_DB, 20 * Math.log10(rms + 1e-9));
  }

  #speak(now) {
    this.#spokenAt = now;
    const level = Math.round(this.#bars.at(-1));
    this.#canvas.setAttribute('aria-valuenow', level);
    this.#canvas.setAttribute('aria-valuetext', level <= FLOOR_DB ? 'silence' : `${level} decibels`);
  }

  #readColours() {
    const style = getComputedStyle(this.#canvas);
    const read = (name) => style.getPropertyValue(name).trim();
    this.#colours = { quiet: read('--meter-quiet'), live: read('--meter-live'), loud: read('--meter-loud') };
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (width === 0) return;
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.#canvas.width !== w || this.#canvas.height !== h) Object.assign(this.#canvas, { width: w, height: h });
    const count = Math.floor((width + GAP_PX) / (BAR_PX + GAP_PX));
    this.#bars.splice(0, this.#bars.length - count);
    const paint = this.#canvas.getContext('2d');
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, width, height);
    for (let i = 0; i < count; i += 1) {
      const level = this.#bars[this.#bars.length - count + i] ?? FLOOR_DB;
      // Speech lives in the upper third of the scale: the curve gives it room to move.
      const share = ((level - FLOOR_DB) / -FLOOR_DB) ** 1.7;
      const bar = Math.max(BAR_PX, share * height);
      paint.fillStyle = this.#colour(level);
      paint.beginPath();
      paint.roundRect(i * (BAR_PX + GAP_PX), (height - bar) / 2, BAR_PX, bar, BAR_PX / 2);
      paint.fill();
    }
  }

  #colour(level) {
    if (level <= FLOOR_DB + 4) return this.#colours.quiet;
    return level > LOUD_DB ? this.#colours.loud : this.#colours.live;
  }
}
