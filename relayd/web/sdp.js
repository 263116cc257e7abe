// The three changes we make to session descriptions, as text in and text out.

/** Our encoder follows the answer's `fmtp`: forward error correction on, silence sent as audio, one channel. */
export function speechAnswer(sdp) {
  const type = /^a=rtpmap:(\d+) opus\/48000/im.exec(sdp)?.[1];
  if (!type) return sdp;
  const line = new RegExp(`^a=fmtp:${type} (.*)$`, 'm');
  const given = line.exec(sdp)?.[1].trim() ?? '';
  const settings = new Map(given.split(';').filter(Boolean).map((pair) => pair.trim().split('=')));
  settings.set('useinbandfec', '1').set('usedtx', '0');
  const text = `a=fmtp:${type} ${[...settings].map(([name, value]) => `${name}=${value}`).join(';')}`;
  return line.test(sdp) ? sdp.replace(line, text) : sdp.replace(new RegExp(`^(a=rtpmap:${type} .*)$`, 'm'), `$1\r\n${text}`);
}

/** An `application/trickle-ice-sdpfrag` body (RFC 8840): credentials, then the first section's candidates. */
export function iceFragment(sdp, candidates) {
  const find = (prefix) => sdp.split(/\r?\n/).find((line) => line.startsWith(prefix));
  const lines = ['a=group:', 'a=ice-options:', 'a=ice-ufrag:', 'a=ice-pwd:', 'm=', 'a=mid:'].map(find).filter(Boolean);
  return [...lines, ...candidates, ''].join('\r\n');
}

/** The standing answer with the credentials and candidates of a restart's fragment. */
export function restartedAnswer(sdp, restarted) {
  const fresh = restarted.split(/\r?\n/);
  const ice = fresh.filter((line) => /^a=(ice-ufrag|ice-pwd|candidate|end-of-candidates)/.test(line));
  const kept = sdp.split(/\r?\n/).filter((line) => line && !/^a=(ice-ufrag|ice-pwd|candidate|end-of-candidates)/.test(line));
  const place = kept.findIndex((line) => line.startsWith('a=mid:'));
  kept.splice(place + 1, 0, ...new Set(ice));
  return `${kept.join('\r\n')}\r\n`;
}
