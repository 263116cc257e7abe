// Where the frames of two connections pass on their way to the decoders; see splice.js.

import { Splice } from './splice.js';

let pair = { old: null, fresh: null, splice: new Splice() };
const writers = new Map();

addEventListener('rtctransform', ({ transformer }) => {
  const { leg } = transformer.options;
  const reader = transformer.readable.getReader();
  const writer = transformer.writable.getWriter();
  writers.set(leg, writer);
  pass(leg, reader, writer).catch(() => writers.delete(leg));
});

addEventListener('message', ({ data: { begin, played, release } }) => {
  if (begin) pair = { ...begin, splice: new Splice() };
  if (played !== undefined) pair.splice.played(played);
  if (release) {
    const writer = writers.get(pair.fresh);
    for (const { frame } of pair.splice.release()) writer?.write(frame).catch(() => {});
  }
});

async function pass(leg, reader, writer) {
  for (;;) {
    const { done, value: frame } = await reader.read();
    if (done) break;
    for (const passing of sift(leg, frame)) await writer.write(passing);
  }
  writers.delete(leg);
}

function sift(leg, frame) {
  if (leg !== pair.old && leg !== pair.fresh) return [frame];
  const told = { timestamp: frame.getMetadata().rtpTimestamp ?? frame.timestamp, payload: frame.data, frame };
  if (leg === pair.fresh) return pair.splice.fresh(told).map(({ frame: passing }) => passing);
  pair.splice.old(told);
  return [frame];
}
