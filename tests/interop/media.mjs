// Media over a WebSocket with the package `ws`, written from docs/asyncapi.json.
//
//   node media.mjs publish --url ws://…/publish/en --frames 100 [--drops 2]
//   node media.mjs listen --url ws://…/listen/en --last 99 [--drops 2]
//
// A listener prints `{"positions": […], "lost": N}`, a publisher `{"sent": N, "safe": N}`. Each closes its socket so many
// times on the way, stays away for a while, and goes on where it was. Exit code 1 and a message on stderr on failure.

import { EventEmitter, once } from 'node:events';
import { parseArgs } from 'node:util';
import WebSocket from 'ws';

const { positionals: [role], values: want } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string' }, frames: { type: 'string' }, last: { type: 'string' }, drops: { type: 'string', default: '0' },
  },
});
const AWAY_MS = 500;
const FRAME_MS = 20;
const TICKS = 960n;
const PATIENCE_MS = 30000;
const wait = (ms) => new Promise((done) => { setTimeout(done, ms); });
const news = new EventEmitter();

/** Waits until what the relay says makes something hold. */
async function until(holds) {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  while (!holds()) await once(news, 'said', { signal });
}

function payload(position) {
  return Buffer.concat([Buffer.from([0xf8]), number(position), Buffer.alloc(position % 40, position % 251)]);
}

function number(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

function written(position) {
  return Buffer.concat([
    Buffer.from([1, 2 | 8]), number(position), number(BigInt(position) * TICKS), number((1n << 40n) + BigInt(position)),
    Buffer.from([0x80 | 30]), payload(position),
  ]);
}

function read(message) {
  const position = Number(message.readBigUInt64BE(2));
  const flags = message[1] & ~16;
  if (flags !== (2 | 8)) throw new Error(`flags ${message[1]}`);
  const copy = Buffer.from(message);
  copy[1] = flags;
  if (!copy.equals(written(position))) throw new Error(`frame ${position} is not the one that was published`);
  return position;
}

/** Opens a socket, says hello and resolves with it and the welcome. */
function open(hello, hear) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(want.url, ['relay.media.v1']);
    socket.on('open', () => socket.send(JSON.stringify({ t: 'hello', d: hello })));
    socket.on('error', fail);
    socket.on('close', (code, reason) => fail(new Error(`closed with ${code} ${reason}`)));
    socket.on('message', (data, binary) => {
      if (binary) {
        hear(read(data), null);
        news.emit('said');
        return;
      }
      const said = JSON.parse(data.toString());
      if (said.t === 'welcome') done([socket, said.d]);
      else if (said.t === 'error' || said.t === 'bye') fail(new Error(data.toString()));
      else hear(null, said);
      news.emit('said');
    });
  });
}

function hangUp(socket) {
  return new Promise((done) => {
    socket.removeAllListeners('close');
    socket.once('close', done);
    socket.close(1000);
  });
}

async function publish(frames, drops) {
  let [next, safe, ticket, socket] = [0, 0, null, null];
  const connect = async () => {
    const [opened, welcome] = await open(ticket ? { ticket } : {}, (_, said) => {
      if (said?.t === 'ack') safe = said.d.safe;
    });
    ticket = welcome.ticket;
    for (let position = welcome.position; position < next; position += 1) opened.send(written(position));
    socket = opened;
  };
  await connect();
  const start = Date.now();
  for (let drop = 0; drop <= drops; drop += 1) {
    const end = Math.floor((frames * (drop + 1)) / (drops + 1));
    const back = drop > 0 ? next + AWAY_MS / FRAME_MS : 0;
    for (; next < end; next += 1) {
      await wait(Math.max(0, start + next * FRAME_MS - Date.now()));
      if (next === back) await connect();
      socket?.send(written(next));
    }
    if (drop < drops) {
      const left = socket;
      socket = null;
      await hangUp(left);
    }
  }
  if (!socket) await connect();
  await until(() => safe >= frames);
  await hangUp(socket);
  console.log(JSON.stringify({ sent: next, safe }));
}

async function listen(last, drops) {
  const positions = [];
  let lost = 0;
  let ticket = null;
  for (let drop = 0; drop <= drops; drop += 1) {
    const end = Math.floor(((last + 1) * (drop + 1)) / (drops + 1)) - 1;
    let leaving = false;
    const [socket, welcome] = await open(ticket ? { ticket } : {}, (position, said) => {
      if (position !== null && !leaving) positions.push(position);
      if (said?.t === 'framesLost') lost += said.d.count;
    });
    ticket = welcome.ticket;
    await until(() => (positions.at(-1) ?? -1) >= end);
    if (drop < drops) {
      // Once it has said what it has, it takes nothing more: the rest comes again.
      leaving = true;
      socket.send(JSON.stringify({ t: 'ack', d: { position: positions.at(-1) } }));
      await hangUp(socket);
      await wait(AWAY_MS);
    } else {
      await hangUp(socket);
    }
  }
  console.log(JSON.stringify({ positions, lost }));
}

const work = role === 'publish' ? publish(Number(want.frames), Number(want.drops)) : listen(Number(want.last), Number(want.drops));
work.catch((error) => {
  console.error(error.stack);
  process.exit(1);
});
