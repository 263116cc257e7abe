// Language tags (BCP 47) as words, and the list a speaker chooses from.

const COMMON = [
  'ar', 'bg', 'bn', 'ca', 'cs', 'da', 'de', 'el', 'en', 'es', 'et', 'fa', 'fi', 'fr', 'ga', 'he', 'hi', 'hr', 'hu', 'id',
  'is', 'it', 'ja', 'ko', 'lt', 'lv', 'mt', 'nb', 'nl', 'pl', 'pt', 'ro', 'ru', 'sk', 'sl', 'sr', 'sv', 'sw', 'ta', 'th',
  'tr', 'uk', 'ur', 'vi', 'zh',
];

const names = new Intl.DisplayNames(['en'], { type: 'language', fallback: 'code' });

/** "es" → "Spanish"; a tag nobody knows stays as it is. */
export function languageName(tag) {
  try {
    return names.of(tag);
  } catch {
    return tag;
  }
}

/** "es" → "Español", or nothing when that is the same word. */
export function ownName(tag) {
  try {
    const own = new Intl.DisplayNames([tag], { type: 'language', fallback: 'none' }).of(tag);
    const capital = own && own[0].toLocaleUpperCase(tag) + own.slice(1);
    return capital === languageName(tag) ? undefined : capital;
  } catch {
    return undefined;
  }
}

export function languageOptions() {
  return COMMON.map((tag) => new Option(languageName(tag), tag)).sort((a, b) => a.text.localeCompare(b.text));
}

/** The browser's own language if the list has it, else English. */
export function likelyLanguage() {
  const own = navigator.language.split('-')[0];
  return COMMON.includes(own) ? own : 'en';
}

/** Fills a fieldset with one radio button per tag; arrow keys move between them as in any radio group. */
export function languageChoice(fieldset, tags, chosen, onChange) {
  const labels = tags.map((tag) => {
    const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'language', value: tag });
    input.checked = tag === chosen;
    input.addEventListener('change', () => onChange(tag));
    const text = document.createElement('span');
    text.textContent = languageName(tag);
    const label = document.createElement('label');
    label.className = 'choice';
    label.append(input, text);
    const own = ownName(tag);
    if (own) {
      const small = document.createElement('small');
      Object.assign(small, { textContent: own, lang: tag });
      text.append(' ', small);
    }
    return label;
  });
  fieldset.replaceChildren(fieldset.querySelector('legend'), ...labels);
}
