// The form that makes a session: the speaker's language, and the languages interpreters will add.

import { createSession } from './api.js';
import { token } from './token.js';
import { languageName, languageOptions, likelyLanguage } from './languages.js';

const $ = (id) => document.getElementById(id);
const extra = new Set();

/** Shows the form; calls `created(session)` once the relay has made one, `failed(error)` when it has not. */
export function showCreateForm(created, failed) {
  for (const id of ['create', 'extra', 'create-button']) $(id).hidden = false;
  // Where there are no tokens, everybody may listen anyway.
  $('anonymous-choice').hidden = !token();
  // One for the form, so that a try again after a lost answer does not make a second session.
  let key = newKey();
  $('language').replaceChildren(...languageOptions());
  $('language').value = likelyLanguage();
  $('language').addEventListener('change', offerExtra);
  $('extra-language').addEventListener('change', addExtra);
  offerExtra();
  $('create').addEventListener('submit', async (event) => {
    event.preventDefault();
    $('create-button').disabled = true;
    try {
      const session = await createSession(chosen(), key);
      hideCreateForm();
      created(session);
    } catch (error) {
      // An answer that refuses makes nothing; the form may be filled in otherwise now.
      if (error.status) key = newKey();
      failed(error);
    } finally {
      $('create-button').disabled = false;
    }
  });
}

function chosen() {
  const spec = { sourceLanguage: $('language').value, languages: [...extra] };
  return token() ? { ...spec, anonymousListeners: $('anonymous').checked } : spec;
}

const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

export function hideCreateForm() {
  for (const id of ['create', 'extra', 'anonymous-choice', 'create-button']) $(id).hidden = true;
  $('extra-chosen').replaceChildren();
}

function addExtra() {
  extra.add($('extra-language').value);
  offerExtra();
}

function offerExtra() {
  extra.delete($('language').value);
  const free = languageOptions().filter(({ value }) => !extra.has(value) && value !== $('language').value);
  $('extra-language').replaceChildren(new Option(extra.size ? 'Add another language…' : 'Add a language…', ''), ...free);
  $('extra-chosen').replaceChildren(...[...extra].map(chip));
}

function chip(tag) {
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: `${languageName(tag)} ✕` });
  button.setAttribute('aria-label', `Remove ${languageName(tag)}`);
  button.addEventListener('click', () => {
    extra.delete(tag);
    offerExtra();
    $('extra-language').focus();
  });
  const item = document.createElement('li');
  item.append(button);
  return item;
}
