// The collector's API: lists, records by query, records as they come, and what its metrics say.

const TOKEN = 'sonde.token';

/** An answer that is not the one asked for, in words. */
export class Refused extends Error {
  constructor(status, message, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

export function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

export const hasToken = () => Boolean(sessionStorage.getItem(TOKEN));

async function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { headers, signal, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, 'The collector does not answer.');
  }
  if (response.ok) return response;
  const after = Number(response.headers.get('Retry-After')) || 0;
  throw new Refused(response.status, await words(response), after);
}

async function words(response) {
  if (response.status === 401) return 'This collector asks for a token.';
  const text = await response.text().catch(() => '');
  try {
    const said = JSON.parse(text).errors.map(({ parameter, problem }) => {
      const names = { q: 'The search', since: 'The start', until: 'The end' };
      return parameter ? `${names[parameter] ?? `“${parameter}”`}: ${problem}` : problem;
    });
    return `${said.join('; ').replace(/^./, (first) => first.toUpperCase())}.`;
  } catch {
    return `The collector answered ${response.status} ${response.statusText}.`;
  }
}

/** An answer in JSON. */
export const json = async (path, signal) => (await ask(path, signal)).json();

/** The pieces of a streamed answer between `separator`s. */
async function* pieces(response, separator) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const parts = rest.split(separator);
      rest = parts.pop();
      yield parts;
      if (done) return;
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, 'The connection to the collector broke.');
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A record. Whole numbers that JavaScript cannot hold stay as they were written. */
export function parse(json) {
  const exact = (_, value, context) =>
    typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER && context?.source ? context.source : value;
  return /\d{16}/.test(json) ? JSON.parse(json, exact) : JSON.parse(json);
}

/** Records of a query, in groups as they arrive. */
export async function* records(parameters, signal) {
  for await (const lines of pieces(await ask(`/api/v1/logs?${parameters}`, signal), '\n')) {
    yield lines.filter(Boolean).map(parse);
  }
}

/** The number of records that a query finds, and of the store's parts that could not be read for it. */
export async function count(parameters, signal) {
  const response = await ask(`/api/v1/logs/count?${parameters}`, signal);
  const lacking = Number(response.headers.get('sonde-incomplete')) || 0;
  return { count: (await response.json()).count, lacking };
}

/** Follows what comes: `opened()` once connected, `came(texts, missed)` with the records' JSON, unread. */
export async function follow(parameters, signal, opened, came) {
  const response = await ask(`/api/v1/logs/tail?${parameters}`, signal);
  opened();
  for await (const events of pieces(response, '\n\n')) {
    const texts = [];
    let missed = 0;
    for (const event of events) {
      if (event.startsWith('data: ')) texts.push(event.slice(6));
      else if (event.startsWith('event: gap')) missed += JSON.parse(event.slice(event.indexOf('{'))).missed;
    }
    came(texts, missed);
  }
}

/** What the store holds and has taken, from the metrics; `null` where they do not say. */
export async function stored() {
  const text = await (await ask('/metrics')).text();
  const value = (name) => {
    const rows = [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? ([0-9.e+]+)`, 'gm'))];
    return rows.length ? rows.reduce((sum, row) => sum + Number(row[1]), 0) : null;
  };
  return {
    records: value('sonde_collector_store_records'),
    taken: value('sonde_collector_records_total\\{[^}]*outcome="delivered"[^}]*\\}'),
  };
}
