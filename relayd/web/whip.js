// One WHIP (RFC 9725) or WHEP connection: POST the offer, PATCH candidates and ICE restarts, DELETE at the end.
// Knows nothing of pages, retries or microphones.

import { request } from './api.js';
import { iceFragment, restartedAnswer, speechAnswer } from './sdp.js';

const CONNECT_TIMEOUT_MS = 12000;

/** Signalling went through, but no media path to the relay was found. */
export class MediaPathError extends Error {
  constructor() {
    super('The relay answers, but its media port cannot be reached.');
    this.name = 'MediaPathError';
    this.code = 'MEDIA_PATH';
  }
}

/**
 * Events: `shaky` (path silent, may come back), `steady` (it came back), `down` (over; `byRelay` when the relay closed it).
 * `stream` is what the relay sends, filled when the answer is applied.
 */
export class Leg extends EventTarget {
  constructor(endpoint, configure) {
    super();
    this.endpoint = endpoint;
    this.stream = new MediaStream();
    this.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.resource = null;
    this.ticket = null;
    this.etag = null;
    this.waiting = [];
    this.closed = false;
    this.byRelay = false;
    this.restarting = null;
    configure(this.pc);
    preferOpus(this.pc);
    this.pc.ontrack = ({ track }) => this.stream.addTrack(track);
    this.pc.onicecandidate = ({ candidate }) => this.#trickle(candidate);
  }

  /**
   * Resolves once media can flow; rejects with an error of `api.js` or `MediaPathError`. With a `secret` (the session's resume
   * secret) it takes the place of whoever publishes there; with a `ticket` it goes on from the leg that the ticket is of.
   */
  async open({ secret = null, ticket = null } = {}) {
    await this.pc.setLocalDescription();
    const response = await request(this.endpoint, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/sdp',
        ...(secret && { 'Relay-Resume': secret }),
        ...(ticket && { 'Relay-Ticket': ticket }),
      },
      body: this.pc.localDescription.sdp,
    });
    this.ticket = response.headers.get('Relay-Ticket');
    this.resource = new URL(response.headers.get('Location'), response.url).href;
    this.etag = response.headers.get('ETag');
    if (this.closed) return this.#remove();
    const sdp = speechAnswer(await response.text());
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    this.#sendCandidates();
    await this.#connected();
    this.pc.onconnectionstatechange = () => this.#report();
    const transport = this.pc.getTransceivers()[0]?.receiver.transport;
    transport?.addEventListener('statechange', () => this.#report());
    this.#report();
  }

  /** Its name at the relay, by which events of this leg alone are asked for. */
  get id() {
    return this.resource && new URL(this.resource).pathname.split('/').at(-1);
  }

  /** New ICE credentials on the same connection: what a change of network needs. One at a time. */
  restart() {
    this.restarting ??= this.#restart().finally(() => (this.restarting = null));
    return this.restarting;
  }

  async #restart() {
    this.pc.restartIce();
    await this.pc.setLocalDescription();
    const response = await request(this.resource, {
      method: 'PATCH',
      headers: { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' },
      body: iceFragment(this.pc.localDescription.sdp, []),
    });
    this.etag = response.headers.get('ETag') ?? this.etag;
    const sdp = restartedAnswer(this.pc.currentRemoteDescription.sdp, await response.text());
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    this.#sendCandidates();
  }

  /** Resolves when the first audio of the relay arrives, or after `limitMs`. */
  firstAudio(limitMs) {
    const track = this.stream.getAudioTracks()[0];
    return new Promise((resolve) => {
      if (!track || !track.muted) return resolve();
      track.addEventListener('unmute', () => resolve(), { once: true });
      setTimeout(resolve, limitMs);
    });
  }

  close() {
    if (this.closed) return;
    this.abandon();
    this.#remove();
  }

  /** Ends it here alone: another one goes on from it, by its ticket. */
  abandon() {
    this.closed = true;
    this.pc.close();
  }

  #remove() {
    // The relay may be the reason why we leave: a failing DELETE changes nothing.
    if (this.resource) request(this.resource, { method: 'DELETE', keepalive: true }).catch(() => {});
  }

  #connected() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new MediaPathError()), CONNECT_TIMEOUT_MS);
      const check = () => {
        const state = this.pc.connectionState;
        if (state === 'connecting' || state === 'new' || state === 'disconnected') return;
        clearTimeout(timer);
        this.pc.onconnectionstatechange = null;
        if (state === 'connected') resolve();
        else reject(new MediaPathError());
      };
      this.pc.onconnectionstatechange = check;
      check();
    });
  }

  #report() {
    if (this.closed) return;
    const state = this.pc.connectionState;
    const dtls = this.pc.getTransceivers()[0]?.receiver.transport?.state;
    if (state === 'failed' || state === 'closed' || dtls === 'closed' || dtls === 'failed') {
      this.byRelay = dtls === 'closed' && state !== 'failed';
      this.#emit('down');
    }
    else if (state === 'disconnected') this.#emit('shaky');
    else if (state === 'connected') this.#emit('steady');
  }

  #emit(name) {
    this.dispatchEvent(new Event(name));
  }

  #trickle(candidate) {
    this.waiting.push(candidate ? `a=${candidate.candidate}` : 'a=end-of-candidates');
    if (this.pc.signalingState === 'stable' && this.resource) this.#sendCandidates();
  }

  #sendCandidates() {
    if (this.waiting.length === 0 || this.closed || !this.etag) return;
    const body = iceFragment(this.pc.localDescription.sdp, this.waiting.splice(0));
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': this.etag };
    // The relay learns our address from our checks as well, so a refused candidate is no failure.
    request(this.resource, { method: 'PATCH', headers, body }).catch(() => {});
  }
}

/** Offers Opus alone: shorter descriptions, and nothing the relay would refuse. */
function preferOpus(pc) {
  const codecs = RTCRtpReceiver.getCapabilities('audio').codecs.filter((c) => c.mimeType.toLowerCase() === 'audio/opus');
  for (const transceiver of pc.getTransceivers()) transceiver.setCodecPreferences?.(codecs);
}
