// The page of the API, outside a browser: `node --test docs.test.mjs`.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { operationsOf, phrases, propertiesOf, resolve, typeOf } from '../../relayd/web/docs.js';

const api = JSON.parse(readFileSync(new URL('../../docs/openapi.json', import.meta.url), 'utf8'));

test('every operation but OPTIONS is on the page, once', () => {
  const shown = operationsOf(api).flatMap(({ operations }) => operations.map((it) => `${it.method} ${it.path}`));
  const there = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.keys(item).filter((method) => method !== 'options').map((method) => `${method} ${path}`));
  assert.deepEqual(shown.toSorted(), there.toSorted());
});

test('every schema and every field of it has a type to show', () => {
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    for (const { name: field, property } of propertiesOf(api, schema)) {
      assert.notEqual(typeOf(property), 'any', `${name}.${field}`);
    }
  }
  const created = propertiesOf(api, api.components.schemas.CreatedSession).map(({ name }) => name);
  assert.ok(created.includes('resumeSecret') && created.includes('sessionId'), created.join());
});

test('references lead to what they name, text between backticks is code', () => {
  assert.equal(resolve(api, { $ref: '#/components/schemas/Problem' }), api.components.schemas.Problem);
  assert.equal(resolve({ paths: { '/a': 1 } }, { $ref: '#/paths/~1a' }), 1);
  assert.deepEqual(phrases('a `b` c').map(({ text, code }) => (code ? `<${text}>` : text)), ['a ', '<b>', ' c']);
});
