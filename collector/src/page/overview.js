// The overview: namespaces, nodes and pods as the agents' last samples have them.

import * as api from './api.js';
import { brief, bytes, cores, lasting, most, percent, rate, spark } from './graph.js';
import { Table, button, name, put } from './table.js';
import { element, plain, show } from './text.js';

/** Pods of a page, and namespaces and nodes before one asks for all. */
const PAGE = 50;
const FEW = 8;
/** Between two looks, and while the collector does not answer. */
const LOOK_MILLIS = 5000;
const POINTS = 90;
const FILTERS = ['namespace', 'node', 'cluster'];
const SPANS = { '15m': 'the last 15 minutes', '1h': 'the last hour' };

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat();

const state = {};
let run = new AbortController();
let timer = 0;
let paused = false;
let broken = ''; // What was wrong at the last look.
let seen = 0; // When the last look succeeded.
let last = null; // What it saw.
let stilled = 0; // Until when rows keep their places under the pointer.
let clusters = 0;
const all = { namespaces: false, nodes: false };

// ---- The address

function read() {
  const given = new URLSearchParams(location.search);
  for (const field of [...FILTERS, 'q']) state[field] = given.get(field) ?? '';
  state.problem = given.get('problem') === 'true';
  state.span = given.get('span') in SPANS ? given.get('span') : '15m';
  state.sort = given.get('sort') || 'cpu';
  state.descending = given.get('order') ? given.get('order') === 'desc' : !['name', 'node'].includes(state.sort);
  state.page = Math.max(0, Math.floor(Number(given.get('page') ?? 1) || 1) - 1);
}

function address() {
  const out = new URLSearchParams();
  for (const field of [...FILTERS, 'q']) if (state[field]) out.set(field, state[field]);
  if (state.problem) out.set('problem', 'true');
  if (state.span !== '15m') out.set('span', state.span);
  if (state.sort !== 'cpu' || !state.descending) {
    out.set('sort', state.sort);
    out.set('order', state.descending ? 'desc' : 'asc');
  }
  if (state.page) out.set('page', state.page + 1);
  return out.size ? `?${out}` : location.pathname;
}

let typing = false;
function change(next, typed = false) {
  stilled = 0; // Who asks for another order gets it.
  Object.assign(state, { page: 0 }, next);
  if (typed && typing) history.replaceState(null, '', address());
  else history.pushState(null, '', address());
  typing = typed;
  reflect();
  look();
}

function reflect() {
  if (document.activeElement !== $('q') || $('q').value.trim() !== state.q) $('q').value = state.q;
  $('trouble').setAttribute('aria-pressed', String(state.problem));
  $('span').value = state.span;
  pods.sort(state.sort, state.descending);
  $('chips').replaceChildren(...FILTERS.filter((field) => state[field]).map((field) => {
    const chip = button('', () => change({ [field]: '' }));
    chip.append(`${field} `, element('b', '', show(state[field])), ' ×');
    chip.setAttribute('aria-label', `End the filter: ${field} ${plain(state[field])}`);
    return element('li', '', chip);
  }));
  const asked = podQuery();
  asked.delete('points');
  asked.delete('span');
  $('api').href = `/api/v1/pods?${asked}`;
}

// ---- Looking

function podQuery() {
  const asked = new URLSearchParams({ sort: state.sort, order: state.descending ? 'desc' : 'asc', limit: PAGE, points: POINTS, span: state.span });
  for (const field of [...FILTERS, 'q']) if (state[field]) asked.set(field, state[field]);
  if (state.problem) asked.set('problem', 'true');
  if (state.page) asked.set('offset', state.page * PAGE);
  return asked;
}

const sorts = { namespaces: { sort: 'cpu', descending: true }, nodes: { sort: 'cpu', descending: true } };
function shortQuery(kind) {
  const { sort, descending } = sorts[kind];
  return new URLSearchParams({ sort, order: descending ? 'desc' : 'asc', limit: all[kind] ? 1000 : FEW, points: POINTS, span: state.span });
}

async function look() {
  clearTimeout(timer);
  run.abort();
  run = new AbortController();
  const { signal } = run;
  try {
    const [namespaces, nodes, pods] = await Promise.all([
      api.json(`/api/v1/namespaces?${shortQuery('namespaces')}`, signal),
      api.json(`/api/v1/nodes?${shortQuery('nodes')}`, signal),
      api.json(`/api/v1/pods?${podQuery()}`, signal),
    ]);
    [seen, broken, last] = [Date.now(), '', { namespaces, nodes, pods }];
    $('login').hidden = true;
    complain(null);
    draw();
    details(signal);
  } catch (error) {
    if (error.name === 'AbortError') return;
    broken = error.message ?? String(error);
    complain(error);
  }
  tell();
  if (!signal.aborted && !paused) timer = setTimeout(() => (document.hidden ? wait() : look()), LOOK_MILLIS);
}

/** Nobody looks: until somebody does. */
function wait() {
  document.addEventListener('visibilitychange', () => { if (!document.hidden && !paused) look(); }, { once: true });
}

function complain(error) {
  if (error?.status === 401) {
    const already = !$('login').hidden;
    $('login').hidden = false;
    $('problem').hidden = true;
    $('content').hidden = true;
    $('login').querySelector('label').textContent = api.hasToken() ? 'The token was not accepted' : 'This collector asks for a token';
    if (!already) $('token').focus();
    return;
  }
  // What is seen may be old, but is more than nothing; the status line says how old.
  const wrong = error && (error.status === 400 || !last);
  $('problem').hidden = !wrong;
  if (wrong) $('problem').replaceChildren(element('span', '', show(error.message)));
}

// ---- What is said

function tell() {
  const old = Math.round((Date.now() - seen) / 1000);
  let said = '';
  if (broken && last) said = `Not live: ${broken.replace(/\.$/, '')}; what is shown is ${lasting(old)} old, trying again`;
  else if (paused) said = `Paused ${lasting(old)} ago`;
  else if (last) {
    const { nodes, pods } = last;
    const stale = nodes.nodes.filter((node) => node.stale).length;
    const troubled = pods.troubled ? `${number.format(pods.troubled)} troubled` : 'none troubled';
    said = nodes.total ? `${count(nodes.total, 'node')}, ${count(pods.total, 'pod')}, ${troubled}` : '';
    if (stale) said += ` · ${count(stale, 'node')} not heard of: ${stale === 1 ? 'its' : 'their'} numbers are old`;
  }
  put($('status'), said);
  document.querySelector('main').classList.toggle('old', Boolean(broken && last));
}

const count = (many, what) => `${number.format(many)} ${what}${many === 1 ? '' : 's'}`;

function explain() {
  const nothing = last.nodes.total === 0;
  $('content').hidden = nothing;
  const none = !nothing && last.pods.matched === 0;
  $('empty').hidden = !nothing && !none;
  if (nothing) {
    $('empty').replaceChildren(
      element('h2', '', 'No metrics yet'),
      element('p', '', 'No agent has pushed to this collector in the last hour. Agents do so every ten seconds unless ', element('code', '', 'metrics.push'), ' is off; point one here:'),
      element('pre', '', `export: {endpoint: http://${location.hostname}:4317}`),
      element('p', '', 'What they push appears here by itself. Logs that others send are under ', link('/logs', 'Logs'), '.'));
  } else if (none) {
    const filtered = state.q || state.problem || FILTERS.some((field) => state[field]);
    $('empty').replaceChildren(
      element('h2', '', state.problem && !state.q ? 'No troubled pod' : filtered ? 'No pod matches' : 'No pods'),
      element('p', '', filtered ? `${count(last.pods.total, 'pod')} without the filter. Words are looked for in the names of pod, namespace and node, and in the state.` : 'The agents tell of no pods: does the kubelet answer them?'),
      filtered ? button('', clear, 'Clear all filters') : '');
    $('empty').classList.add('below');
  }
  $('empty').classList.toggle('among', none);
}

function link(href, text) {
  const made = element('a', '', text);
  made.href = href;
  return made;
}

function clear() {
  change({ q: '', problem: false, namespace: '', node: '', cluster: '' });
}

// ---- Rows

/** Values before the first that anyone has: a young collector's graphs are not all at the right edge. */
let skip = 0;
const LEAST = 30;
function begin(lists) {
  const first = Math.min(...lists.map((values) => (values ?? []).findIndex((value) => value !== null)).filter((at) => at >= 0));
  return Math.max(0, Math.min(first, POINTS - LEAST)) || 0;
}

/** A sparkline that is drawn again only for other values. */
function graph(cell, values, what, { top = 0, text = cores, ...size } = {}) {
  const known = (values ?? []).slice(size.skip ?? skip);
  const drawn = known.join();
  if (cell.dataset.drawn === drawn) return;
  cell.dataset.drawn = drawn;
  const highest = most(known);
  const label = highest === null ? `${what}: no history` : `${what}: at most ${text(highest)} in ${SPANS[state.span]}`;
  const svg = spark(known, { top, label, ...size });
  const title = document.createElementNS(svg.namespaceURI, 'title');
  title.textContent = label;
  svg.prepend(title);
  cell.replaceChildren(svg);
}

const cell = (className, ...children) => element('td', className, ...children);
const cells = (row, ...classes) => classes.map((className) => row.appendChild(cell(className)));

/** A number with its name, for where the columns have no headings. */
function labelled(label, text) {
  const made = cell('number', text);
  made.dataset.label = label;
  return made;
}

/** A number and what it is of. */
function amount(cell, value, of) {
  const key = `${value}|${of}`;
  if (cell.dataset.amount === key) return;
  cell.dataset.amount = key;
  cell.replaceChildren(value, of ? element('span', 'of', ` ${of}`) : '');
}

const filterBy = (field) => (event) => {
  const value = event.currentTarget.dataset.name;
  change({ [field]: state[field] === value ? '' : value });
};

/** Where names of several clusters meet, each says which it is of. */
const named = (item) => (clusters > 1 && item.cluster ? `${item.cluster}/${item.name}` : item.name);

function shortRow(kind, field) {
  return () => {
    const row = element('tr', '');
    const label = button('link', (event) => {
      const { item } = tables[kind].of(event.currentTarget);
      const on = state[field] === item.name;
      change({ [field]: on ? '' : item.name, cluster: on || clusters < 2 ? '' : item.cluster });
    });
    row.append(cell('first', label));
    const [count, cpu, line, memory, network] = cells(row, 'number', 'number', 'graph', 'number', 'number net');
    const update = (item) => {
      name(label, named(item));
      label.setAttribute('aria-pressed', String(state[field] === item.name));
      row.classList.toggle('stale', item.stale);
      const phases = kind === 'namespaces' ? item.pods : null;
      const there = phases ? phases.running + phases.pending + phases.unknown : item.pods;
      const others = phases ? [phases.pending && `${phases.pending} pending`, phases.failed && `${phases.failed} failed`].filter(Boolean).join(', ') : '';
      amount(count, number.format(there), others);
      if (item.stale) amount(cpu, 'no news', item.age_seconds === null ? '' : `for ${lasting(item.age_seconds)}`);
      else amount(cpu, cores(item.cpu_cores), kind === 'nodes' && item.cpu_capacity_cores ? `of ${item.cpu_capacity_cores}` : '');
      const memoryOf = kind === 'nodes' && item.memory_capacity_bytes ? percent(item.memory_bytes, item.memory_capacity_bytes) : '';
      amount(memory, item.stale ? '–' : bytes(item.memory_bytes), item.stale ? '' : memoryOf);
      traffic(network, item);
      graph(line, item.history?.cpu_cores, 'CPU', { top: kind === 'nodes' ? item.cpu_capacity_cores / 4 : 0.05 });
    };
    return { row, update };
  };
}

function traffic(cell, item) {
  const none = item.stale || (item.receive_bytes_per_second === null && item.transmit_bytes_per_second === null);
  put(cell, none ? '–' : `↓${brief(item.receive_bytes_per_second)} ↑${brief(item.transmit_bytes_per_second)}`);
}

/** Where a pod's lines are. */
function logs(pod, container = '') {
  const asked = new URLSearchParams({ namespace: pod.namespace, pod: pod.name });
  if (container) asked.set('container', container);
  if (clusters > 1 && pod.cluster) asked.set('cluster', pod.cluster);
  return `/logs?${asked}`;
}

const STARTING = ['Pending', 'ContainerCreating', 'PodInitializing', 'Terminating'];
function stateOf(pod) {
  if (pod.stale) return ['stale', `${pod.state ?? 'Unknown'}, ${lasting(pod.age_seconds)} ago`];
  if (pod.state === null) return ['', 'not known'];
  if (pod.problem) return ['bad', pod.state === 'Running' ? 'Not ready' : pod.state];
  return [STARTING.includes(pod.state) ? 'starting' : pod.state === 'Completed' ? '' : 'good', pod.state];
}

function podRow() {
  const row = element('tr', '');
  const open = button('toggle', (event) => toggle(pods.of(event.currentTarget)));
  open.setAttribute('aria-expanded', 'false');
  const space = button('link space', filterBy('namespace'));
  const label = link('', '');
  row.append(cell('first', element('div', 'podname', open, space, element('span', 'slash', '/'), label)));
  const classes = ['', 'number', 'number', 'graph', 'number', 'graph second', 'number net', 'number age', 'node', 'act'];
  const [status, restarts, cpu, cpuLine, memory, memoryLine, network, age, node, act] = cells(row, ...classes);
  for (const [each, said] of [[cpu, 'CPU'], [memory, 'Mem'], [restarts, 'Restarts']]) each.dataset.label = said;
  const there = status.appendChild(element('span', 'state'));
  const home = node.appendChild(button('link', filterBy('node')));
  const read = act.appendChild(link('', 'Logs'));
  const made = { row, open };
  made.update = (pod) => {
    name(space, pod.namespace);
    name(label, pod.name);
    const href = logs(pod);
    if (label.getAttribute('href') !== href) [label, read].forEach((each) => each.setAttribute('href', href));
    read.setAttribute('aria-label', `Logs of ${plain(pod.name)}`);
    open.setAttribute('aria-label', `Details of ${plain(pod.name)}`);
    const [kind, said] = stateOf(pod);
    there.className = `state ${kind}`;
    name(there, said);
    row.classList.toggle('stale', pod.stale);
    amount(restarts, number.format(pod.restarts ?? 0), '');
    restarts.classList.toggle('some', pod.restarts > 0);
    amount(cpu, pod.stale ? '–' : cores(pod.cpu_cores), pod.cpu_limit_cores ? `of ${cores(pod.cpu_limit_cores)}` : '');
    amount(memory, pod.stale ? '–' : bytes(pod.memory_bytes), pod.memory_limit_bytes ? percent(pod.memory_bytes, pod.memory_limit_bytes) : '');
    traffic(network, pod);
    graph(cpuLine, pod.history?.cpu_cores, 'CPU', { top: 0.02 });
    graph(memoryLine, pod.history?.memory_bytes, 'Memory', { top: 1 << 20, text: bytes });
    put(age, pod.start_time ? lasting(last.pods.now - pod.start_time) : '–');
    name(home, pod.node);
    if (made.inside) fill(made, pod);
  };
  return made;
}

// ---- Details of a pod

function toggle(made) {
  if (!made) return;
  const on = !made.inside;
  made.open.setAttribute('aria-expanded', String(on));
  if (!on) {
    made.inside.remove();
    made.inside = null;
    return;
  }
  const figure = (what) => {
    const out = element('figure', '', element('figcaption', '', element('span', '', what), element('span', 'now')), element('div', 'wide'));
    return out;
  };
  const graphs = element('div', 'large', ...['CPU', 'Memory', 'Received', 'Sent'].map(figure));
  const parts = element('table', 'parts');
  const whole = cell('', graphs, parts);
  whole.colSpan = 11;
  made.inside = element('tr', 'inside', whole);
  Object.assign(made, { graphs, parts });
  made.row.after(made.inside);
  fill(made, made.item);
  chart(made, run.signal);
}

function fill(made, pod) {
  const heading = element('tr', '', ...['Container', 'State', 'Restarts', 'CPU', 'Memory', ''].map((text, at) => {
    const th = element('th', at > 1 && at < 5 ? 'number' : '', text);
    th.scope = 'col';
    return th;
  }));
  const rows = pod.containers.map((one) => {
    const before = one.last_reason ? ` (before: ${plain(one.last_reason)})` : '';
    const said = `${one.reason ? plain(one.reason) : one.ready === null ? 'not known' : one.ready ? 'ready' : 'not ready'}${before}`;
    const read = link(logs(pod, one.name), 'Logs');
    read.setAttribute('aria-label', `Logs of container ${plain(one.name)}`);
    return element('tr', '', cell('', show(one.name)), cell('', said), labelled('Restarts', number.format(one.restarts ?? 0)),
      labelled('CPU', cores(one.cpu_cores)), labelled('Mem', bytes(one.memory_bytes)), cell('act', read));
  });
  const facts = [pod.owner ? `${pod.owner.kind} ${pod.owner.name}` : '', `node ${pod.node}`, clusters > 1 ? `cluster ${pod.cluster}` : '', pod.uid ? `uid ${pod.uid}` : '']
    .filter(Boolean).map(plain).join(' · ');
  const key = JSON.stringify([pod.containers, facts]);
  if (made.filled === key || made.parts.contains(document.activeElement)) return;
  made.filled = key;
  const caption = element('caption', 'offscreen', `Containers of ${plain(pod.name)}`);
  made.parts.replaceChildren(caption, element('thead', '', heading), element('tbody', '', ...rows));
  made.facts ??= made.parts.parentNode.appendChild(element('p', 'soft', ''));
  made.facts.textContent = facts;
}

async function chart(made, signal) {
  const { cluster, node, namespace, name: pod } = made.item;
  try {
    const asked = new URLSearchParams({ node, namespace, pod });
    if (cluster) asked.set('cluster', cluster);
    const { series } = await api.json(`/api/v1/history?${asked}`, signal);
    if (!made.inside) return;
    const slots = state.span === '1h' ? 360 : 90;
    const kinds = [['cpu_cores', cores, 0.02], ['memory_bytes', bytes, 1 << 20], ['receive_bytes_per_second', rate, 1024], ['transmit_bytes_per_second', rate, 1024]];
    const lists = kinds.map(([kind]) => series[kind].slice(-slots));
    const early = Math.min(begin(lists), slots - LEAST);
    kinds.forEach(([, text, top], at) => {
      const values = lists[at];
      const figure = made.graphs.children[at];
      const highest = most(values);
      const now = values.findLast((value) => value !== null);
      put(figure.querySelector('.now'), highest === null ? 'nothing yet' : `${text(now)} · max ${text(highest)}`);
      graph(figure.querySelector('.wide'), values, figure.firstChild.firstChild.textContent, { top, text, width: 240, height: 56, skip: early });
    });
  } catch {
    // The list says what is wrong; a pod that is gone has left it.
  }
}

function details(signal) {
  for (const made of pods.rows.values()) if (made.inside) chart(made, signal);
}

// ---- Tables

const sortShort = (kind) => (column) => {
  const own = sorts[kind];
  stilled = 0;
  sorts[kind] = { sort: column, descending: own.sort === column ? !own.descending : column !== 'name' };
  look();
};
const byName = (item) => `${item.cluster}\n${item.name}`;
const tables = {
  namespaces: new Table($('namespaces'), { key: byName, make: shortRow('namespaces', 'namespace'), sorted: sortShort('namespaces') }),
  nodes: new Table($('nodes'), { key: byName, make: shortRow('nodes', 'node'), sorted: sortShort('nodes') }),
};
const pods = new Table($('podtable'), {
  key: ({ cluster, node, namespace, name }) => [cluster, node, namespace, name].join('\n'),
  make: podRow,
  sorted: (column) => change({ sort: column, descending: state.sort === column ? !state.descending : !['name', 'node'].includes(column) }),
});

function draw() {
  const { namespaces, nodes, pods: found } = last;
  skip = begin([...namespaces.namespaces, ...nodes.nodes, ...found.pods].map((item) => item.history?.cpu_cores));
  clusters = new Set(nodes.nodes.map((node) => node.cluster)).size;
  for (const [kind, { [kind]: items, total }, counted, more] of [
    ['namespaces', namespaces, 'nscount', 'nsmore'], ['nodes', nodes, 'nodecount', 'nodemore'],
  ]) {
    tables[kind].sort(sorts[kind].sort, sorts[kind].descending);
    tables[kind].show(items, Date.now() < stilled);
    put($(counted), total ? number.format(total) : '');
    $(more).hidden = total <= FEW;
    put($(more), all[kind] ? 'Show fewer' : `Show all ${number.format(total)}`);
  }
  pods.show(found.pods, Date.now() < stilled);
  const { matched, total, troubled } = found;
  put($('podcount'), matched === total ? number.format(total) : `${number.format(matched)} of ${number.format(total)}`);
  put($('trouble').querySelector('span'), troubled ? `Troubled (${number.format(troubled)})` : 'Troubled');
  $('trouble').dataset.some = String(troubled > 0);
  const first = state.page * PAGE;
  $('pager').hidden = matched <= PAGE && !state.page;
  $('back').disabled = !state.page;
  $('forth').disabled = first + PAGE >= matched;
  put($('place'), `${number.format(Math.min(first + 1, matched))} to ${number.format(Math.min(first + PAGE, matched))} of ${number.format(matched)}`);
  $('podtable').parentNode.hidden = !matched;
  explain();
}

// ---- Hands

let pause = 0;
$('q').addEventListener('input', () => {
  clearTimeout(pause);
  pause = setTimeout(() => state.q !== $('q').value.trim() && change({ q: $('q').value.trim() }, true), 250);
});
$('q').addEventListener('change', () => { typing = false; });
$('span').addEventListener('change', () => change({ span: $('span').value, page: state.page }));
$('trouble').addEventListener('click', () => change({ problem: !state.problem }));
$('pause').addEventListener('click', halt);
function halt() {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  put($('pause'), paused ? 'Go on' : 'Pause');
  if (paused) clearTimeout(timer);
  else look();
  tell();
}
for (const [id, kind] of [['nsmore', 'namespaces'], ['nodemore', 'nodes']]) {
  $(id).addEventListener('click', () => { all[kind] = !all[kind]; look(); });
}
for (const [id, step] of [['back', -1], ['forth', 1]]) {
  $(id).addEventListener('click', () => {
    change({ page: state.page + step });
    $('podtitle').scrollIntoView({ block: 'start' });
  });
}
$('help').addEventListener('click', () => $('helpbox').showModal());
$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  api.keepToken($('token').value.trim());
  $('token').value = '';
  look();
});
document.querySelector('main').addEventListener('pointermove', (event) => {
  if (event.pointerType === 'mouse') stilled = Date.now() + 4000;
});
document.addEventListener('focusin', (event) => {
  for (const each of document.querySelectorAll('tr.chosen')) each.classList.remove('chosen');
  pods.of(event.target)?.row.classList.add('chosen');
});

/** The pod that the keys are about: that of the focus. */
const chosen = () => pods.of(document.activeElement);

function move(step) {
  const links = [...$('pods').querySelectorAll('.podname a')];
  const row = chosen()?.row;
  const at = row ? links.findIndex((each) => row.contains(each)) : step > 0 ? -1 : links.length;
  const next = links[Math.min(links.length - 1, Math.max(0, at + step))];
  next?.focus();
  next?.scrollIntoView({ block: 'nearest' });
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('helpbox').open) return;
  const { target, key } = event;
  const field = target.matches('input, select, textarea');
  if (key === 'Escape') {
    if (field) event.preventDefault();
    if (field) target.blur();
    else for (const made of pods.rows.values()) if (made.inside) toggle(made);
    return;
  }
  if (field) {
    if (key === 'Enter' && target === $('q')) target.blur();
    return;
  }
  const acts = {
    '/': () => { $('q').focus(); $('q').select(); },
    j: () => move(1),
    k: () => move(-1),
    o: () => toggle(chosen()),
    n: () => {
      const namespace = chosen()?.item.namespace ?? '';
      change({ namespace: state.namespace ? '' : namespace });
    },
    t: () => change({ problem: !state.problem }),
    p: halt,
    g: () => location.assign('/logs'),
    '?': () => $('helpbox').showModal(),
  };
  if (!(key in acts)) return;
  acts[key]();
  event.preventDefault();
});

addEventListener('popstate', () => {
  typing = false;
  read();
  reflect();
  look();
});

read();
reflect();
look();
setInterval(tell, 1000);
