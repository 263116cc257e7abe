// What getStats says, once a second, as the few figures a person wants; every rate is a difference of two samples.

const PERIOD_MS = 1000;

/** Calls `tell(figures)` each second for the peer connection that `connection()` returns then; returns a stop function. */
export function watchStats(connection, tell) {
  let before = null;
  const timer = setInterval(async () => {
    const pc = connection();
    if (!pc) {
      before = null;
      return;
    }
    const now = read(await pc.getStats());
    if (before?.pc === pc && now) tell(compare(before, now));
    before = now && { ...now, pc };
  }, PERIOD_MS);
  return () => clearInterval(timer);
}

/** Writes figures into the `<dd data-figure=…>` of a list; missing ones show as a dash. */
export function showFigures(list, figures) {
  for (const cell of list.querySelectorAll('[data-figure]')) {
    const text = write(cell.dataset.figure, figures?.[cell.dataset.figure]);
    if (cell.textContent !== text) cell.textContent = text;
  }
}

function read(report) {
  const found = {};
  for (const entry of report.values()) {
    if (entry.type === 'inbound-rtp' && entry.kind === 'audio') found.inbound = entry;
    if (entry.type === 'outbound-rtp' && entry.kind === 'audio') found.outbound = entry;
    if (entry.type === 'remote-inbound-rtp') found.remote = entry;
    if (entry.type === 'candidate-pair' && entry.nominated) found.pair = entry;
  }
  return found.inbound || found.outbound ? found : null;
}

function compare(before, now) {
  const roundTrip = now.remote?.roundTripTime ?? now.pair?.currentRoundTripTime;
  const common = { roundTrip: milliseconds(roundTrip) };
  if (now.outbound) return { ...common, ...sent(before.outbound, now.outbound, now.remote) };
  return { ...common, ...heard(before.inbound, now.inbound) };
}

function heard(before, now) {
  if (!before) return { packets: now.packetsReceived };
  const change = (name) => (now[name] ?? 0) - (before[name] ?? 0);
  const seconds = (now.timestamp - before.timestamp) / 1000;
  const received = change('packetsReceived');
  const expected = received + change('packetsLost');
  return {
    packets: now.packetsReceived,
    received,
    bitrate: (change('bytesReceived') * 8) / seconds / 1000,
    jitter: milliseconds(now.jitter),
    loss: expected > 0 ? (Math.max(0, change('packetsLost')) / expected) * 100 : undefined,
    lost: now.packetsLost,
    buffer: ratio(change('jitterBufferDelay'), change('jitterBufferEmittedCount'), 1000),
    concealed: ratio(change('concealedSamples') - change('silentConcealedSamples'), change('totalSamplesReceived'), 100),
  };
}

function sent(before, now, remote) {
  if (!before) return { packets: now.packetsSent };
  const seconds = (now.timestamp - before.timestamp) / 1000;
  return {
    packets: now.packetsSent,
    bitrate: ((now.bytesSent - before.bytesSent) * 8) / seconds / 1000,
    loss: remote?.fractionLost === undefined ? undefined : remote.fractionLost * 100,
    jitter: milliseconds(remote?.jitter),
  };
}

const ratio = (part, whole, scale) => (whole > 0 ? (part / whole) * scale : undefined);
const milliseconds = (seconds) => (seconds === undefined ? undefined : seconds * 1000);

const UNITS = { buffer: 'ms', jitter: 'ms', roundTrip: 'ms', loss: '%', concealed: '%', bitrate: 'kb/s' };

function write(name, value) {
  if (value === undefined || Number.isNaN(value)) return '–';
  if (name === 'packets' || name === 'lost') return Math.round(value).toLocaleString('en');
  const digits = UNITS[name] === '%' || (UNITS[name] === 'ms' && value < 10) ? 1 : 0;
  return `${value.toFixed(digits)}\u202f${UNITS[name]}`;
}
