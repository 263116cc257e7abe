// The relay's HTTP interface: session calls, and its answers turned into errors a page can explain.

const TIMEOUT_MS = 8000;

/** The relay answered with a problem document (RFC 9457). */
export class ProblemError extends Error {
  constructor(status, { code, title, detail } = {}) {
    super(detail || title || `The relay answered with status ${status}.`);
    this.name = 'ProblemError';
    this.status = status;
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

/** `fetch` that either resolves with a 2xx answer or throws one of the errors above. */
export async function request(path, init = {}) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS), ...init });
  } catch (cause) {
    throw new UnreachableError(cause);
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  throw new ProblemError(response.status, document);
}

export async function createSession(sourceLanguage, languages) {
  const response = await request('/v1/sessions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ sourceLanguage, languages }),
  });
  return response.json();
}

export async function getSession(id) {
  const response = await request(`/v1/sessions/${encodeURIComponent(id)}`);
  const session = await response.json();
  if (session.status === 'ended') {
    throw new ProblemError(410, { code: 'SESSION_ENDED', detail: `The session ${id} has ended.` });
  }
  return session;
}

export async function endSession(id) {
  await request(`/v1/sessions/${encodeURIComponent(id)}`, { method: 'DELETE' });
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

/** Calls `tell(session)` or `fail(error)` about every `periodMs` until the returned function is called. */
export function watchSession(id, periodMs, tell, fail) {
  let timer;
  let stopped = false;
  const poll = async () => {
    try {
      const session = await getSession(id);
      if (!stopped) tell(session);
    } catch (error) {
      if (!stopped) fail(error);
    }
    if (!stopped) timer = setTimeout(poll, document.hidden ? periodMs * 3 : periodMs);
  };
  poll();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

export const whipEndpoint = (session, language) => endpoint(session, 'whip', language);
export const whepEndpoint = (session, language) => endpoint(session, 'whep', language);

function endpoint(session, kind, language) {
  return `/v1/sessions/${encodeURIComponent(session)}/${kind}/${encodeURIComponent(language)}`;
}
