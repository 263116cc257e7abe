// The relay's HTTP interface: session calls, and its answers turned into errors a page can explain.

import { authorization, forget } from './token.js';

const TIMEOUT_MS = 8000;

/** The relay answered with a problem document (RFC 9457). */
export class ProblemError extends Error {
  constructor(status, { code, title, detail, retryAfterMs } = {}) {
    super(detail || title || `The relay answered with status ${status}.`);
    this.name = 'ProblemError';
    this.status = status;
    this.retryAfterMs = retryAfterMs;
    this.code = code || `HTTP_${status}`;
    this.title = title;
  }
}

/** No answer at all: relay stopped, network gone, or too slow. */
export class UnreachableError extends Error {
  constructor(cause) {
    super('The relay does not answer.', { cause });
    this.name = 'UnreachableError';
    this.code = 'UNREACHABLE';
  }
}

/** `fetch` with this page's token that either resolves with a 2xx answer or throws one of the errors above. */
export async function request(path, init = {}) {
  let response;
  // The token is for this relay alone, wherever an answer may point.
  const own = new URL(path, location.href).origin === location.origin;
  const headers = { ...init.headers, ...(own ? authorization() : {}) };
  try {
    response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS), ...init, headers });
  } catch (cause) {
    throw new UnreachableError(cause);
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  if (response.status === 401) forget();
  throw new ProblemError(response.status, document);
}

/** A session of these languages; `key` makes a repeated call answer with the first one's session. */
export async function createSession(spec, key) {
  const response = await request('/v1/sessions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    body: JSON.stringify(spec),
  });
  return response.json();
}

export const pauseSession = (id) => change(id, 'pause');
export const resumeSession = (id) => change(id, 'resume');
export const addLanguage = (id, language) => change(id, 'languages', { language });

/** The session as the relay shows it after the change, or null where the answer is empty. */
async function change(id, what, body) {
  const response = await request(`${session(id)}/${what}`, {
    method: 'POST',
    ...(body && { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
  });
  return response.json().catch(() => null);
}

const session = (id) => `/v1/sessions/${encodeURIComponent(id)}`;

export async function getSession(id) {
  const response = await request(session(id));
  const found = await response.json();
  if (found.status === 'ended') {
    throw new ProblemError(410, { code: 'SESSION_ENDED', detail: `The session ${id} has ended.` });
  }
  return found;
}

export async function endSession(id) {
  await request(session(id), { method: 'DELETE' });
}

/** The parts of this page's path, decoded; one that does not decode stays as it is, and names no session. */
export function pathParts() {
  return location.pathname.split('/').slice(1).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
}

export const whipEndpoint = (id, language) => endpoint(id, 'whip', language);
export const whepEndpoint = (id, language) => endpoint(id, 'whep', language);

function endpoint(id, kind, language) {
  return `${session(id)}/${kind}/${encodeURIComponent(language)}`;
}
