// Keeps a phone's screen on while audio runs: a dark screen stops the microphone on some phones.

let lock = null;
let wanted = false;

export function stayAwake(on) {
  wanted = on;
  if (on) ask();
  else lock?.release().catch(() => {});
}

async function ask() {
  try {
    lock = await navigator.wakeLock?.request('screen');
  } catch {
    lock = null; // low battery or a hidden page; audio goes on without it
  }
}

document.addEventListener('visibilitychange', () => {
  if (wanted && !document.hidden) ask();
});
