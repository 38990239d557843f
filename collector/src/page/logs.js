// The logs: the filters in the address, the search they make, and what comes while one looks.

import * as api from './api.js';
import { Rows } from './rows.js';
import { element, needles, plain, show } from './text.js';

const NAMES = ['cluster', 'namespace', 'pod', 'container', 'node'];
const FIELDS = [...NAMES, 'severity', 'q', 'since', 'until'];
/** Records of a page. */
const PAGE = 200;
/** Rows kept while following, lines shown of those that came between two looks, and lines kept for later. */
const LIVE_ROWS = 500;
const SHOWN = 25;
const HELD = 500;
const LOOK_MILLIS = 250;
/** Names kept of each kind. */
const KNOWN = 2000;

const $ = (id) => document.getElementById(id);
const state = { filters: {}, live: true };
const rows = new Rows($('rows'), { filter: (field, value) => change({ [field]: value }), around, changed: () => {} });

let run = null; // What the current search may still do is ended through its controller.
let arrived = []; // Records' JSON that came and is not shown.
let passed = 0; // Lines that came and will not be shown.
let more = false; // Older records may exist.
let loading = false;
let stilled = 0; // Until when the list keeps still under the pointer.
let link = 'off'; // off | connecting | open | broken
let broken = ''; // Why.
let torn = false; // Lines came while the connection was broken.

// ---- The address

function read() {
  const parameters = new URLSearchParams(location.search);
  state.filters = {};
  for (const field of FIELDS) if (parameters.get(field)) state.filters[field] = parameters.get(field);
  state.live = parameters.get('live') !== 'off' && !state.filters.until;
}

function address() {
  const parameters = new URLSearchParams(state.filters);
  if (!state.live && !state.filters.until) parameters.set('live', 'off');
  return parameters.size ? `?${parameters}` : location.pathname;
}

let typing = ''; // The field that is being typed into: its changes are one step back.
function change(filters, { typed = '' } = {}) {
  const next = { ...state.filters, ...filters };
  for (const field of FIELDS) if (!next[field]) delete next[field];
  if (next.until) state.live = false;
  state.filters = next;
  if (typed && typing === typed) history.replaceState(null, '', address());
  else history.pushState(null, '', address());
  typing = typed;
  reflect();
  search();
}

/** Shows the filters in the form. */
function reflect() {
  const { filters } = state;
  for (const field of [...NAMES, 'q', 'severity']) {
    const input = $(field);
    if (field === 'severity' && filters.severity && ![...input.options].some((option) => option.value === filters.severity)) {
      input.append(new Option(`${plain(filters.severity)} and above`, filters.severity));
    }
    if (document.activeElement !== input || input.value.trim() !== (filters[field] ?? '')) input.value = filters[field] ?? '';
    input.classList.toggle('set', Boolean(filters[field]));
  }
  $('cluster').parentNode.hidden = !filters.cluster && known.cluster.size < 2;
  const since = filters.since ?? '';
  const custom = Boolean(filters.until) || since.includes('T');
  if (!custom && since && ![...$('range').options].some((option) => option.value === since)) {
    $('range').insertBefore(new Option(`Last ${plain(since)}`, since), $('range').lastElementChild);
  }
  $('range').value = custom ? 'custom' : since;
  $('range').classList.toggle('set', Boolean(custom || since));
  $('custom').hidden = !custom;
  if (custom) {
    $('since').value = local(since);
    $('until').value = local(filters.until);
  }
  $('clear').hidden = !Object.keys(filters).length;
  const active = Object.keys(filters).filter((field) => NAMES.includes(field) || field === 'severity').length;
  $('filters').textContent = active ? `Filters (${active})` : 'Filters';
  const asked = new URLSearchParams({ ...filters, order: 'desc', limit: 100 });
  $('api').href = `/api/v1/logs?${asked}`;
  document.title = [filters.q, filters.pod ?? filters.namespace, 'Logs', 'Sonde'].filter(Boolean).map(plain).join(' · ');
  tree();
}

/** A time as a field of local time holds it. */
function local(time) {
  const date = new Date(time || NaN);
  if (Number.isNaN(date.getTime())) return '';
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

const utc = (field) => ($(field).value ? new Date($(field).value).toISOString() : '');

function around(record) {
  const at = new Date(record.time).getTime();
  const { cluster, namespace, pod, container } = record;
  const names = Object.fromEntries(Object.entries({ cluster, namespace, pod, container }).filter(([, value]) => value));
  state.filters = {};
  change({ ...names, since: new Date(at - 60_000).toISOString(), until: new Date(at + 60_000).toISOString() });
}

// ---- The search

const asked = (more = {}) => new URLSearchParams({ ...state.filters, ...more });

async function search() {
  run?.abort();
  run = new AbortController();
  const { signal } = run;
  [arrived, passed, more, loading, torn] = [[], 0, false, false, false];
  rows.wanted = needles(state.filters.q ?? '');
  $('rows').classList.add('stale');
  $('count').hidden = true;
  $('count').textContent = 'Count all matches';
  say('');
  link = 'off';
  // Following starts first: what comes during the search is not missed, and what both find is shown once.
  if (state.live) follow(signal);
  tell();
  await load(signal, true);
}

async function load(signal, first) {
  if (loading) return;
  loading = true;
  $('older').hidden = $('end').hidden = $('empty').hidden = true;
  let fetched = 0;
  try {
    const limits = { order: 'desc', limit: PAGE };
    if (!first) {
      // From the oldest row on, those of the same time included, as the order within a time is by uid.
      const { time } = rows.oldest;
      limits.until = later(time);
      limits.limit += rows.items.filter((item) => item.record.time === time).length;
    }
    const wanted = limits.limit;
    tell();
    for await (const group of api.records(asked(limits), signal)) {
      if (signal.aborted) return;
      if (first && fetched === 0) fresh();
      for (const record of group) {
        fetched += 1;
        rows.add(record);
        learn(record);
      }
      if (rows.full) break;
    }
    more = fetched >= wanted || rows.full;
    if (fetched === 0 && first) fresh();
  } catch (error) {
    if (error.name === 'AbortError') return;
    if (first) fresh();
    complain(error, () => (first ? search() : load(signal, false)));
    more = !first && error.status === 0;
  }
  if (signal.aborted) return;
  loading = false;
  // Over when the button is in view.
  $('older').hidden = !more || rows.full;
  $('end').hidden = more && !rows.full;
  $('end').textContent = rows.full ? '' : rows.items.length > 20 ? 'No older lines match.' : '';
  if (rows.full) further();
  $('count').hidden = rows.items.length === 0 || !more;
  look();
  tell();
}

function fresh() {
  rows.clear();
  $('rows').classList.remove('stale');
}

/** The next nanosecond, in the API's form. */
function later(time) {
  const [, seconds, nanos] = time.match(/^(.*)\.(\d{9})Z$/) ?? [];
  if (!seconds) return time;
  const next = (BigInt(nanos) + 1n).toString().padStart(9, '0');
  return next.length === 9 ? `${seconds}.${next}Z` : new Date(Date.parse(`${seconds}Z`) + 1000).toISOString();
}

/** As many rows as a browser should hold: go on from the last one. */
function further() {
  const time = rows.oldest?.time;
  const button = element('button', '', 'Go on from here');
  button.type = 'button';
  button.addEventListener('click', () => change({ until: later(time) }));
  $('end').hidden = false;
  $('end').replaceChildren(`${rows.items.length.toLocaleString()} lines are shown. `, button);
}

// ---- What comes

async function follow(signal) {
  let wait = 1000;
  const { since, until, ...filters } = state.filters;
  while (!signal.aborted) {
    try {
      link = 'connecting';
      tell();
      await api.follow(new URLSearchParams(filters), signal, () => {
        link = 'open';
        wait = 1000;
        tell();
      }, came);
      throw new api.Refused(0, 'The connection to the collector ended.');
    } catch (error) {
      if (error.name === 'AbortError' || signal.aborted) return;
      [link, broken] = ['broken', error.message];
      tell();
      // The search says it; it ends this by starting anew.
      if (error.status === 401 || error.status === 400) return;
      await new Promise((resolve) => setTimeout(resolve, Math.max(wait, (error.after ?? 0) * 1000)));
      wait = Math.min(wait * 2, 15_000);
      torn = true;
    }
  }
}

function came(texts, missed) {
  arrived.push(...texts);
  passed += missed;
  if (arrived.length > HELD) {
    passed += arrived.length - HELD;
    arrived.splice(0, arrived.length - HELD);
  }
}

const still = () =>
  scrollY > 60 || rows.selected || rows.items.some((item) => item.open) || Date.now() < stilled || String(getSelection()).length > 1;

let speed = [];
/** Shows what came, unless someone reads. */
function look(all = false) {
  if (loading || !state.live) return;
  const lost = torn && link === 'open';
  if ((arrived.length || passed || lost) && !all && still()) {
    const count = arrived.length + passed;
    const exact = `${count.toLocaleString()} new ${count === 1 ? 'line' : 'lines'}`;
    $('fresh').textContent = lost ? 'New lines' : exact;
    $('fresh').hidden = false;
    return;
  }
  if (lost) return search();
  $('fresh').hidden = true;
  const texts = all ? arrived : arrived.slice(-SHOWN);
  const skipped = passed + arrived.length - texts.length;
  speed.push([Date.now(), texts.length + skipped, skipped]);
  speed = speed.filter(([at]) => at > Date.now() - 3000);
  [arrived, passed] = [[], 0];
  for (const text of texts) {
    const record = api.parse(text);
    learn(record);
    rows.add(record);
  }
  if (texts.length) $('empty').hidden = true;
  if (rows.trim(LIVE_ROWS)) more = true;
  if (texts.length) {
    $('older').hidden = !more;
    $('end').hidden = more;
  }
  tell();
}

// ---- What is said

function tell() {
  const n = rows.items.length;
  const lines = `${n.toLocaleString()} ${n === 1 ? 'line' : 'lines'}`;
  let said = loading ? (n && !$('rows').classList.contains('stale') ? `${lines}, looking for more …` : 'Searching …') : n ? `${lines}${more ? ', newest first' : ''}` : '';
  const skipped = speed.reduce((sum, [, , skip]) => sum + skip, 0);
  if (state.live && link === 'open' && skipped) {
    const rate = Math.round(speed.reduce((sum, [, all]) => sum + all, 0) / 3);
    said = `About ${rate.toLocaleString()} lines a second come, more than can be read: some pass by. Filter, or pause to see all of the newest.`;
  } else if (state.live && link === 'broken') said = `${said && `${said} · `}Not live: ${broken.replace(/\.$/, '')}; trying again`;
  if ($('status').textContent !== said) $('status').textContent = said;
  $('rows').setAttribute('aria-busy', String(loading));
  const button = $('live');
  button.setAttribute('aria-pressed', String(state.live));
  button.dataset.link = state.live ? link : 'off';
  const nothing = !n && !loading && $('problem').hidden && $('login').hidden;
  if (nothing && $('empty').hidden) explain();
  if (!nothing) $('empty').hidden = true;
}

function explain() {
  const box = $('empty');
  const filtered = Object.keys(state.filters).length > 0;
  box.hidden = false;
  if (!filtered) {
    box.replaceChildren(
      element('h2', '', 'No lines yet'),
      element('p', '', 'Nothing has been sent to this collector. Point an agent’s ', element('code', '', 'export.endpoint'), ' at its OTLP port, or any OTLP client:'),
      element('pre', '', `export: {endpoint: http://${location.hostname}:4317}`),
      state.live ? element('p', '', 'New lines appear here as they arrive.') : '');
    return;
  }
  const wider = element('button', '', 'Clear all filters');
  wider.type = 'button';
  wider.addEventListener('click', clear);
  const hints = [];
  if (state.filters.q) hints.push('words are found whole: “time” does not find “timeout”, but "time" in quotes does');
  if (NAMES.some((name) => state.filters[name])) hints.push('names are compared whole, with upper and lower case');
  if (state.filters.since) hints.push('the time range may be too short');
  box.replaceChildren(
    element('h2', '', 'No line matches'),
    hints.length ? element('p', '', `${hints.join('; ')}.`.replace(/^./, (first) => first.toUpperCase())) : '',
    state.live ? element('p', '', 'Matching lines will appear here as they arrive.') : '',
    wider);
}

function complain(error, again) {
  if (error.status === 401) {
    $('login').hidden = false;
    $('login').querySelector('label').textContent = api.hasToken() ? 'The token was not accepted' : 'This collector asks for a token';
    $('token').focus();
    return;
  }
  say(error.message ?? String(error), error.status === 400 ? null : again);
}

function say(message, again) {
  $('login').hidden = true;
  $('problem').hidden = !message;
  $('problem').replaceChildren(element('span', '', show(message)));
  if (!again) return;
  const button = element('button', '', 'Try again');
  button.type = 'button';
  button.addEventListener('click', () => { say(''); again(); });
  $('problem').append(button);
}

// ---- Names that were seen

const known = Object.fromEntries(NAMES.map((name) => [name, new Set()]));
const pods = new Map(); // namespace → pods
let learnt = false;

function learn(record) {
  for (const name of NAMES) {
    const value = record[name];
    if (!value || known[name].has(value) || known[name].size >= KNOWN) continue;
    known[name].add(value);
    $(`known-${name}`).append(new Option('', value));
    learnt = true;
  }
  const { namespace, pod } = record;
  if (!known.namespace.has(namespace) || !known.pod.has(pod)) return;
  if (!pods.has(namespace)) pods.set(namespace, new Set());
  if (pods.get(namespace).has(pod)) return;
  pods.get(namespace).add(pod);
  learnt = true;
}

function tree() {
  learnt = false;
  const { namespace, pod } = state.filters;
  const leaf = (className, text, on, filters) => {
    const made = element('button', className, show(text));
    made.type = 'button';
    made.title = plain(text);
    made.setAttribute('aria-pressed', String(on));
    made.addEventListener('click', () => change(filters));
    return made;
  };
  const items = [...pods.keys()].sort().map((name) => {
    const on = name === namespace;
    const item = element('li', '', leaf('space', name, on, { namespace: on ? '' : name, pod: '', container: '' }));
    if (!on) return item;
    const inside = [...pods.get(name)].sort().slice(0, 200).map((each) =>
      element('li', '', leaf('pod', each, each === pod, { pod: each === pod ? '' : each, container: '' })));
    item.append(element('ul', '', ...inside));
    return item;
  });
  $('tree').replaceChildren(...items);
  $('sources').hidden = !items.length;
  $('cluster').parentNode.hidden = !state.filters.cluster && known.cluster.size < 2;
}

async function survey() {
  try {
    const limits = new URLSearchParams({ order: 'desc', limit: 1000 });
    for await (const group of api.records(limits, new AbortController().signal)) group.forEach(learn);
    tree();
  } catch {
    // The search says what is wrong.
  }
}

// ---- Counts in the header

let before = null;
async function weigh() {
  if (document.hidden) return;
  try {
    const now = { ...(await api.stored()), at: Date.now() };
    $('stored').textContent = now.records === null ? '' : `${now.records.toLocaleString()} stored`;
    const rate = before && now.taken >= before.taken ? (now.taken - before.taken) / ((now.at - before.at) / 1000) : null;
    $('rate').textContent = !rate ? '' : `${Math.round(rate).toLocaleString()}/s`;
    before = now;
  } catch {
    $('rate').textContent = '';
    before = null;
  }
}

// ---- Hands

function clear() {
  typing = '';
  change(Object.fromEntries(FIELDS.map((field) => [field, ''])));
}

function turn() {
  state.live = !state.live;
  if (state.live && state.filters.until) delete state.filters.until;
  history.replaceState(null, '', address());
  const gaps = speed.some(([, , skip]) => skip);
  speed = [];
  reflect();
  if (state.live || gaps || arrived.length || loading) {
    search();
  } else {
    run.abort();
    run = new AbortController();
    link = 'off';
    tell();
  }
  $('fresh').hidden = true;
}

let pause = 0;
for (const field of [...NAMES, 'q']) {
  const input = $(field);
  const apply = () => {
    clearTimeout(pause);
    if ((state.filters[field] ?? '') !== input.value.trim()) change({ [field]: input.value.trim() }, { typed: field });
  };
  input.addEventListener('input', () => {
    clearTimeout(pause);
    pause = setTimeout(apply, 350);
  });
  input.addEventListener('change', () => { apply(); typing = ''; });
}
$('severity').addEventListener('change', () => change({ severity: $('severity').value }));
$('range').addEventListener('change', () => {
  const { value } = $('range');
  if (value !== 'custom') return change({ since: value, until: '' });
  $('custom').hidden = false;
  $('since').value ||= local(new Date(Date.now() - 3_600_000).toISOString());
  $('since').focus();
});
for (const field of ['since', 'until']) $(field).addEventListener('change', () => change({ since: utc('since'), until: utc('until') }));
$('clear').addEventListener('click', clear);
$('live').addEventListener('click', turn);
$('fresh').addEventListener('click', () => {
  rows.unselect();
  scrollTo({ top: 0 });
  if (passed || torn) search();
  else look(true);
});
$('older').addEventListener('click', () => load(run.signal, false));
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting) && scrollY > 0 && !$('older').hidden && !rows.full) load(run.signal, false);
}, { rootMargin: '300px' }).observe($('older'));
$('count').addEventListener('click', async () => {
  $('count').textContent = 'Counting …';
  try {
    const { count, lacking } = await api.count(asked(), run.signal);
    const damage = lacking ? `, not counting ${lacking} parts of the store that are damaged` : '';
    $('count').textContent = `${count.toLocaleString()} match${damage}`;
  } catch (error) {
    if (error.name !== 'AbortError') $('count').textContent = error.message;
  }
});
$('filters').addEventListener('click', () => {
  const open = $('side').classList.toggle('opened');
  $('filters').setAttribute('aria-expanded', String(open));
});
$('help').addEventListener('click', () => $('helpbox').showModal());
$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  api.keepToken($('token').value.trim());
  $('token').value = '';
  survey();
  search();
});
$('everything').addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  clear();
});
$('rows').addEventListener('pointermove', (event) => {
  if (event.pointerType === 'mouse') stilled = Date.now() + 1500;
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('helpbox').open) return;
  const { target, key } = event;
  const field = target.matches('input, select, textarea');
  if (key === 'Escape') {
    // A search field would be emptied.
    if (field) event.preventDefault();
    if (field) target.blur();
    else rows.unselect();
    return;
  }
  if (field) {
    if (key === 'Enter' && target === $('q')) target.blur();
    return;
  }
  const acts = {
    '/': () => { $('q').focus(); $('q').select(); },
    j: () => rows.move(1),
    k: () => rows.move(-1),
    l: turn,
    g: () => location.assign('/'),
    '?': () => $('helpbox').showModal(),
    Enter: () => (target.matches('button, a') ? null : rows.selected && (rows.toggle(rows.selected), true)),
  };
  if (!(key in acts)) return;
  if (acts[key]() !== null) event.preventDefault();
});

addEventListener('popstate', () => {
  typing = '';
  read();
  reflect();
  search();
});

read();
reflect();
search();
survey();
weigh();
setInterval(look, LOOK_MILLIS);
setInterval(() => { if (learnt) tree(); }, 1000);
setInterval(weigh, 5000);
