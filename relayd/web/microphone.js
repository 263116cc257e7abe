// The microphone: opening it, choosing another, and the list of what is there.

const CHOICE = 'relay.microphone';

/** Events: `devices` (the list changed), `track` (a new track is live), `gone` (the microphone was unplugged). */
export class Microphone extends EventTarget {
  track = null;
  devices = [];
  processing = true;

  constructor() {
    super();
    navigator.mediaDevices?.addEventListener('devicechange', () => this.refresh());
  }

  get chosen() {
    return this.track?.getSettings().deviceId ?? localStorage.getItem(CHOICE) ?? '';
  }

  /** Whether the browser would ask nobody: then the meter may run before anyone presses a button. */
  async allowed() {
    try {
      return (await navigator.permissions.query({ name: 'microphone' })).state === 'granted';
    } catch {
      return false;
    }
  }

  /** Opens `deviceId` or the last one used; throws what getUserMedia throws. */
  async open(deviceId = localStorage.getItem(CHOICE)) {
    const stream = await this.#capture(deviceId);
    const old = this.track;
    this.track = stream.getAudioTracks()[0];
    this.track.addEventListener('ended', () => this.dispatchEvent(new Event('gone')));
    if (old) this.track.enabled = old.enabled;
    old?.stop();
    if (deviceId) localStorage.setItem(CHOICE, deviceId);
    await this.refresh();
    this.dispatchEvent(new CustomEvent('track', { detail: this.track }));
  }

  /** Echo cancellation, noise suppression and level control together: on for speech, off for music. */
  async setProcessing(on) {
    this.processing = on;
    if (this.track) await this.open(this.chosen);
  }

  async refresh() {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    this.devices = all.filter((device) => device.kind === 'audioinput' && device.deviceId);
    this.dispatchEvent(new Event('devices'));
  }

  async #capture(deviceId) {
    const audio = {
      channelCount: 1,
      echoCancellation: this.processing,
      noiseSuppression: this.processing,
      autoGainControl: this.processing,
    };
    if (deviceId) audio.deviceId = { exact: deviceId };
    try {
      return await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      if (error.name !== 'OverconstrainedError') throw error;
      localStorage.removeItem(CHOICE);
      delete audio.deviceId;
      return navigator.mediaDevices.getUserMedia({ audio });
    }
  }
}
