// Tables that are made once and then follow their numbers: a row keeps its elements, so that focus, an open row and
// what a reader points at stay where they are while everything moves.

import { element, plain, show } from './text.js';

/** A cell's text, set only where it differs. */
export function put(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

/** A name that strangers chose, as nodes; set only where it differs. */
export function name(cell, text) {
  if (cell.dataset.name === text) return;
  cell.dataset.name = text;
  cell.replaceChildren(show(text));
  cell.title = plain(text);
}

export function button(className, press, label = '') {
  const made = element('button', className, label);
  made.type = 'button';
  made.addEventListener('click', press);
  return made;
}

export class Table {
  /**
   * `key(item)` names a row, `make(item)` gives `{row, update(item)}`, and `sorted(column)` is told of a click on a
   * heading.
   */
  constructor(table, { key, make, sorted }) {
    Object.assign(this, { table, key, make, body: table.tBodies[0], rows: new Map() });
    for (const heading of table.querySelectorAll('th[data-sort]')) {
      const label = heading.textContent;
      heading.replaceChildren(button('', () => sorted(heading.dataset.sort), label));
    }
  }

  /** Which column sorts the rows, and how. */
  sort(column, descending) {
    for (const heading of this.table.querySelectorAll('th[data-sort]')) {
      if (heading.dataset.sort !== column) heading.removeAttribute('aria-sort');
      else heading.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    }
  }

  /** Shows these items. `still`: rows that are there stay in their places while no other comes or goes. */
  show(items, still = false) {
    const keys = items.map((item) => this.key(item));
    const wanted = new Set(keys);
    const same = still && wanted.size === this.rows.size && keys.every((key) => this.rows.has(key));
    for (const [key, made] of this.rows) {
      if (wanted.has(key)) continue;
      made.row.nextElementSibling?.matches('.inside') && made.row.nextElementSibling.remove();
      made.row.remove();
      this.rows.delete(key);
    }
    let before = null; // The row that the next one stands behind.
    items.forEach((item, at) => {
      let made = this.rows.get(keys[at]);
      if (!made) {
        made = this.make(item);
        made.row.dataset.key = keys[at];
        this.rows.set(keys[at], made);
      }
      made.item = item;
      made.update(item);
      if (same) return;
      const inside = made.inside?.isConnected ? made.inside : null;
      const place = before ? before.nextElementSibling : this.body.firstElementChild;
      if (place !== made.row) {
        // What has the focus must not be taken out of the document: its neighbours are moved around it.
        if (made.row.contains(document.activeElement)) while (before ? before.nextElementSibling !== made.row : this.body.firstElementChild !== made.row) {
          this.body.append(before ? before.nextElementSibling : this.body.firstElementChild);
        } else this.body.insertBefore(made.row, place);
      }
      if (inside && made.row.nextElementSibling !== inside) made.row.after(inside);
      before = inside ?? made.row;
    });
  }

  /** The row that holds an element. */
  of(node) {
    const row = node?.closest?.('tr[data-key]');
    return row && this.body.contains(row) ? this.rows.get(row.dataset.key) : undefined;
  }
}
