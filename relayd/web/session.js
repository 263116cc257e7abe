// What the pages know of a session, and how each event changes it. Pure: a state and an event in, a state out.

/** The state after `event`; the same object when the event says nothing about it. */
export function applyEvent(session, { t, d = {} }) {
  switch (t) {
    case 'sessionJoined':
      return { ...session, ...d };
    case 'resync':
      return { ...session, ...(d.snapshot ?? d) };
    case 'speakerReady':
      return withTrack(begun(session, d.language), d.language, { speakerConnected: true });
    case 'speakerLeft':
      return withTrack(session, d.language, { speakerConnected: false });
    case 'listenerJoined':
    case 'listenerLeft':
      return withTrack(session, d.language, { listeners: d.listeners });
    case 'sessionPaused':
      return { ...session, status: 'paused' };
    case 'sessionResumed':
      return { ...session, status: 'active' };
    case 'sessionEnded':
      return { ...session, status: 'ended' };
    case 'trackAdded':
      return session.languages.includes(d.language) ? session : withLanguages(session, [...session.languages, d.language]);
    case 'trackRemoved':
      return withLanguages(session, session.languages.filter((language) => language !== d.language));
    default:
      return session;
  }
}

/** A session begins with the first words of its speaker, not of an interpreter. */
function begun(session, language) {
  return session.status === 'created' && language === session.sourceLanguage ? { ...session, status: 'active' } : session;
}

function withTrack(session, language, change) {
  const tracks = (session.tracks ?? []).map((track) => (track.language === language ? { ...track, ...change } : track));
  return summed({ ...session, tracks });
}

function withLanguages(session, languages) {
  const known = new Map((session.tracks ?? []).map((track) => [track.language, track]));
  const fresh = (language) => ({ language, speakerConnected: false, listeners: 0 });
  const tracks = languages.map((language) => known.get(language) ?? fresh(language));
  return summed({ ...session, languages, tracks });
}

/** The figures of the whole session follow from its tracks'. */
function summed(session) {
  const source = session.tracks.find((track) => track.language === session.sourceLanguage);
  return {
    ...session,
    speakerConnected: source?.speakerConnected ?? session.speakerConnected,
    listeners: session.tracks.reduce((sum, track) => sum + (track.listeners ?? 0), 0),
  };
}
