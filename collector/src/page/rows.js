// The list of records: newest first, each once, bounded.

import { element, plain, show } from './text.js';

/** Most rows at a time. */
const ROWS = 5000;
/** Most text at a time, UTF-16 units of all bodies: a line may have a megabyte. */
const TEXT = 32 << 20;
/** What a closed row shows of a line at most, and an open one until asked for more. */
const GLANCE = 1500;
const READ = 20_000;

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];
const FILTERS = { cluster: 'Cluster', node: 'Node', namespace: 'Namespace', pod: 'Pod', container: 'Container' };

const clock = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3, hourCycle: 'h23',
});
const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

const keyOf = (record) => record.uid ?? [record.time, record.pod, record.container, record.body].join('\0');
const level = (record) => LEVELS.find((name) => record.severity?.toLowerCase().startsWith(name)) ?? 'none';
const body = (record) => record.body ?? '';

function button(className, label, act, title) {
  const made = element('button', className, label);
  made.type = 'button';
  if (title) made.title = title;
  made.addEventListener('click', (event) => {
    event.stopPropagation();
    act(made);
  });
  return made;
}

export function copier(label, text) {
  return button('quiet copy', label, async (made) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Clipboards are only for secure origins; the old way works on all.
      const area = element('textarea', 'offscreen', text);
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
      made.focus();
    }
    made.textContent = 'Copied';
    setTimeout(() => { made.textContent = label; }, 1200);
  });
}

export class Rows {
  /** `filter(field, value)` is called for a click on a name, `around(record)` for its neighbourhood. */
  constructor(list, { filter, around, changed }) {
    Object.assign(this, { list, filter, around, changed });
    this.wanted = [];
    this.clear();
    list.addEventListener('click', (event) => {
      const line = event.target.closest('.line');
      if (!line || String(getSelection())) return;
      const row = this.items.find((item) => item.node === line.parentNode);
      this.select(row, false);
      this.toggle(row);
    });
  }

  clear() {
    this.items = [];
    this.keys = new Set();
    this.text = 0;
    this.selected = null;
    this.list.replaceChildren();
  }

  get oldest() { return this.items.at(-1)?.record; }

  /** Adds a record where its time belongs; false when it is there already. */
  add(record) {
    const key = keyOf(record);
    if (this.keys.has(key)) return false;
    let [low, high] = [0, this.items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this.items[middle];
      const later = record.time === other.record.time ? key >= other.key : record.time > other.record.time;
      if (later) high = middle;
      else low = middle + 1;
    }
    const item = { key, record, node: this.line(record), open: false };
    this.list.insertBefore(item.node, this.items[low]?.node ?? null);
    this.items.splice(low, 0, item);
    this.keys.add(key);
    this.text += body(record).length;
    return true;
  }

  get full() { return this.items.length >= ROWS || this.text >= TEXT; }

  /** Drops the oldest rows beyond `most`; true when some went. */
  trim(most) {
    const before = this.items.length;
    while (this.items.length > most || this.text > TEXT) {
      const item = this.items.pop();
      if (!item) break;
      this.keys.delete(item.key);
      this.text -= body(item.record).length;
      item.node.remove();
      if (this.selected === item) this.selected = null;
    }
    return this.items.length < before;
  }

  line(record) {
    const row = element('li', `row ${level(record)}`);
    const time = new Date(record.time);
    const today = new Date().toDateString() === time.toDateString();
    const stamp = element('time', '', today ? clock.format(time) : `${day.format(time)} ${clock.format(time)}`);
    stamp.title = record.time;
    const source = element('span', 'source');
    for (const field of ['namespace', 'pod', 'container']) {
      const value = record[field];
      if (!value) continue;
      if (source.childNodes.length) source.append(element('span', 'slash', '/'));
      source.append(button(`name ${field}`, show(value), () => this.filter(field, value), `${FILTERS[field]} ${plain(value)}: show only this`));
    }
    const text = body(record);
    const glance = element('span', 'body', show(text.slice(0, GLANCE), this.wanted));
    if (record.body === null) glance.append(element('i', 'none', 'no body'));
    if (text.length > GLANCE) glance.append(element('span', 'more', ` … ${text.length.toLocaleString()} characters`));
    const line = element('div', 'line', stamp, element('span', 'level', record.severity ?? '–'), source, glance);
    line.tabIndex = -1;
    line.setAttribute('aria-expanded', 'false');
    row.append(line);
    return row;
  }

  toggle(item) {
    if (!item) return;
    item.open = !item.open;
    item.node.classList.toggle('open', item.open);
    item.node.firstChild.setAttribute('aria-expanded', String(item.open));
    if (item.open) item.node.append(this.details(item.record));
    else item.node.lastChild.remove();
    this.changed();
  }

  details(record) {
    const text = body(record);
    const whole = element('pre', 'whole', show(text.slice(0, READ), this.wanted));
    const box = element('div', 'details', whole);
    if (text.length > READ) {
      const all = button('quiet', `Show all ${text.length.toLocaleString()} characters`, () => {
        whole.replaceChildren(show(text, this.wanted));
        all.remove();
      });
      box.append(all);
    }
    box.append(element('div', 'acts',
      copier('Copy line', text),
      copier('Copy as JSON', JSON.stringify(record)),
      button('quiet', 'Lines around it', () => this.around(record), 'The same container, one minute before and after')));
    const facts = element('dl', 'facts');
    const fact = (name, value, field) => {
      if (value === null || value === undefined || value === '') return;
      const said = typeof value === 'string' ? value : JSON.stringify(value);
      const cell = element('dd', '', element('span', 'value', show(said.slice(0, READ))));
      if (field) cell.append(button('quiet', 'Filter', () => this.filter(field, said)));
      cell.append(copier('Copy', said));
      facts.append(element('dt', '', show(name)), cell);
    };
    fact('time', record.time);
    fact('severity', record.severity);
    for (const field of Object.keys(FILTERS)) fact(field, record[field], field);
    fact('stream', record.stream);
    fact('uid', record.uid);
    const names = Object.keys(record.attributes ?? {});
    const first = ['trace_id', 'span_id'];
    const rank = (name) => (first.includes(name) ? first.indexOf(name) : first.length);
    names.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
    for (const name of names) fact(name, record.attributes[name]);
    box.append(facts);
    return box;
  }

  select(item, scroll = true) {
    if (!item) return;
    this.selected?.node.classList.remove('selected');
    this.selected = item;
    item.node.classList.add('selected');
    item.node.firstChild.focus({ preventScroll: true });
    if (scroll) item.node.scrollIntoView({ block: 'nearest' });
    this.changed();
  }

  unselect() {
    this.selected?.node.classList.remove('selected');
    this.selected?.node.firstChild.blur();
    this.selected = null;
    for (const item of this.items) if (item.open) this.toggle(item);
    this.changed();
  }

  move(by) {
    const at = this.items.indexOf(this.selected);
    this.select(this.items[at < 0 ? 0 : Math.min(Math.max(at + by, 0), this.items.length - 1)]);
  }
}
