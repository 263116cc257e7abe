// The panel that brings listeners: link, copy button, QR code.

/** `link` names the session and nothing else: no token of the speaker's is ever in it. */
export function showShare(panel, link, forAnyone) {
  panel.querySelector('#share-who').textContent = forAnyone
    ? 'Anyone with this link can listen.'
    : 'Whoever listens needs a token of their own behind it: #token=…';
  const field = panel.querySelector('#share-link');
  field.value = link;
  field.addEventListener('focus', () => field.select());
  const code = panel.querySelector('#share-code');
  code.src = `/qr.svg?text=${encodeURIComponent(link)}`;
  code.alt = `QR code of ${link}`;
  panel.querySelector('#share-open').href = link;
  panel.querySelector('#share-local').hidden = !isLocal(link);
  const button = panel.querySelector('#share-copy');
  button.addEventListener('click', async () => {
    button.textContent = (await copy(field)) ? 'Copied' : 'Press Ctrl+C';
    setTimeout(() => (button.textContent = 'Copy link'), 2000);
  });
}

async function copy(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    // Not a secure page, or refused: leave the link selected for the person's own keys.
    field.focus();
    field.select();
    return false;
  }
}

function isLocal(link) {
  return ['localhost', '127.0.0.1', '[::1]'].includes(new URL(link).hostname);
}
