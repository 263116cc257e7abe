// The token this page was opened with (`#token=…`): taken out of the address bar at once, kept for this tab alone.

const kind = location.pathname.split('/')[1] === 'speak' ? 'speak' : 'listen';
const KEPT = `relay.token.${kind}`;
const told = new EventTarget();

take();
// Whoever opened the page renews the token by giving the address a new one; nothing is loaded again.
window.addEventListener('hashchange', () => {
  if (take()) told.dispatchEvent(new Event('renewed'));
});

/** The token, or null where the relay was opened without one. */
export const token = () => sessionStorage.getItem(KEPT);

/** Drops a token that the relay does not take. */
export const forget = () => sessionStorage.removeItem(KEPT);

/** Calls `renewed()` whenever the page is given another token. */
export function onRenewed(renewed) {
  told.addEventListener('renewed', renewed);
}

/** The header that carries it, if there is one. */
export function authorization() {
  const given = token();
  return given ? { Authorization: `Bearer ${given}` } : {};
}

function take() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (!given) return false;
  sessionStorage.setItem(KEPT, given);
  history.replaceState(history.state, '', location.pathname + location.search);
  return true;
}
