// The API, readable: every operation of /v1/openapi.json by its tag, then the schemas. Nothing is fetched from elsewhere.

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

/** An element with properties and children; text stays text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A line of text, in which `code` is code. */
export function phrases(text) {
  return text.split('`').map((part, index) => ({ text: part, code: index % 2 === 1 })).filter((part) => part.text);
}

function line(text) {
  return phrases(text).map((part) => (part.code ? make('code', {}, part.text) : part.text));
}

function paragraphs(text) {
  return (text ?? '').split('\n\n').filter(Boolean).map((part) => make('p', {}, line(part)));
}

/** What `{ $ref }` points at. */
export function resolve(document, value) {
  if (!value?.$ref) return value;
  const parts = value.$ref.replace(/^#\//, '').split('/');
  return parts.reduce((at, part) => at?.[part.replaceAll('~1', '/').replaceAll('~0', '~')], document);
}

/** A schema in a few words. */
export function typeOf(schema) {
  if (!schema) return '';
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.allOf) return schema.allOf.map(typeOf).join(' and ');
  if (schema.oneOf || schema.anyOf) return (schema.oneOf ?? schema.anyOf).map(typeOf).join(' or ');
  const types = [schema.type ?? 'any'].flat().filter((type) => type !== 'null');
  const names = types.map((type) => (type === 'array' ? `array of ${typeOf(schema.items) || 'any'}` : type));
  if (schema.enum && schema.enum.length <= 8) return schema.enum.map((value) => JSON.stringify(value)).join(', ');
  if (schema.additionalProperties?.type) return `map to ${typeOf(schema.additionalProperties)}`;
  return names.join(' or ');
}

/** Every operation in the order of the tags, each with its method and path. */
export function operationsOf(document) {
  return (document.tags ?? []).map((tag) => {
    const found = Object.entries(document.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]?.tags?.includes(tag.name))
        .map((method) => ({ method, path, ...item[method] })));
    return { tag, operations: found };
  }).filter(({ operations }) => operations.length > 0);
}

function table(headings, rows) {
  const head = make('tr', {}, headings.map((heading) => make('th', { scope: 'col' }, heading)));
  const body = rows.map((cells) => make('tr', {}, cells.map((cell) => make('td', {}, cell))));
  return make('div', { className: 'scroll' }, make('table', {}, make('thead', {}, head), make('tbody', {}, body)));
}

function type(schema) {
  const words = typeOf(schema);
  return schema?.$ref ? make('a', { href: `#schema-${words}` }, words) : words;
}

function example(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2);
  return value === undefined ? null : make('pre', {}, text);
}

function contents(content = {}) {
  return Object.entries(content).map(([mime, media]) => [make('code', {}, mime), ' ', type(media.schema)]);
}

function parameters(operation) {
  if (!operation.parameters?.length) return [];
  const rows = operation.parameters.map((parameter) => [
    make('code', {}, parameter.name),
    `${parameter.in}${parameter.required ? '' : ', optional'}`,
    line(parameter.description ?? ''),
  ]);
  return [make('h3', {}, 'Parameters'), table(['Name', 'In', ''], rows)];
}

function requestBody(operation) {
  const { requestBody: body } = operation;
  if (!body) return [];
  const examples = Object.values(body.content).map((media) => example(media.example));
  return [
    make('h3', {}, 'Body'),
    ...contents(body.content).map((content) => make('p', {}, content)),
    ...paragraphs(body.description),
    ...examples,
  ];
}

function responses(document, operation) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const told = resolve(document, response);
    const headers = Object.keys(told.headers ?? {}).filter((name) => name !== 'X-Request-Id');
    const names = headers.map((name) => [' ', make('code', {}, name)]).flat();
    const bodies = status < '400' ? contents(told.content).map((content) => make('div', {}, content)) : [];
    return [status, [...line(told.description), ...bodies], names];
  });
  return [make('h3', {}, 'Answers'), table(['Status', '', 'Headers'], rows)];
}

function access(operation) {
  if (!operation.security) return null;
  const optional = operation.security.some((scheme) => Object.keys(scheme).length === 0);
  return make('p', { className: 'hint' }, optional
    ? 'Takes a token; needs none where the session, or who opened the connection, had none.'
    : 'Needs a token, unless the relay is in open mode.');
}

function operationView(document, operation) {
  const summary = make('summary', {},
    make('span', { className: `method ${operation.method}` }, operation.method.toUpperCase()), ' ',
    make('code', {}, operation.path), ' ',
    make('span', { className: 'hint' }, operation.summary ?? ''));
  return make('details', { id: operation.operationId, className: 'operation' }, summary,
    paragraphs(operation.description), access(operation), parameters(operation), requestBody(operation),
    responses(document, operation));
}

/** The properties of a schema, those of what it is composed of included. */
export function propertiesOf(document, schema) {
  const parts = (schema.allOf ?? []).map((part) => propertiesOf(document, resolve(document, part)));
  const required = new Set(schema.required ?? []);
  const own = Object.entries(schema.properties ?? {})
    .map(([name, property]) => ({ name, property, required: required.has(name) }));
  return [...parts.flat(), ...own];
}

function schemaView(document, name, schema) {
  const rows = propertiesOf(document, schema).map(({ name: property, property: value, required }) => [
    make('code', {}, property),
    [type(value), required ? '' : ', optional'],
    line(value.description ?? ''),
  ]);
  return make('details', { id: `schema-${name}`, className: 'operation' },
    make('summary', {}, make('code', {}, name)), paragraphs(schema.description),
    table(['Field', 'Type', ''], rows));
}

function section(id, title, text, children) {
  return make('section', { className: 'card', id }, make('h2', {}, title), paragraphs(text), children);
}

/** Opens what the address names. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) named.open = true;
  named?.scrollIntoView();
}

function show(api) {
  const sections = operationsOf(api).map(({ tag, operations }) =>
    section(`tag-${tag.name}`, tag.name, tag.description, operations.map((it) => operationView(api, it))));
  const schemas = Object.entries(api.components?.schemas ?? {});
  sections.push(section('schemas', 'schemas', 'What bodies look like.',
    schemas.map(([name, schema]) => schemaView(api, name, schema))));
  const links = sections.map((it) => make('a', { href: `#${it.id}` }, it.querySelector('h2').textContent));
  document.getElementById('contents').append(...links.flatMap((link) => [link, ' ']));
  document.getElementById('description').append(...paragraphs(api.info.description));
  document.getElementById('operations').append(...sections);
  document.getElementById('about').hidden = false;
  addEventListener('hashchange', openNamed);
  openNamed();
}

async function load() {
  try {
    const answer = await fetch('/v1/openapi.json');
    if (!answer.ok) throw new Error(`the relay answered ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    const failure = document.getElementById('failure');
    failure.textContent = `The description cannot be loaded: ${error.message}`;
    failure.hidden = false;
  }
}

if (typeof document !== 'undefined') load();
