// Small graphs of the last minutes, drawn without a library.

const SVG = 'http://www.w3.org/2000/svg';

function make(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/**
 * A line over an area; gaps stay gaps. `values` may hold nulls, the newest is last. The top of the graph is `top`, or
 * the largest value where that is more: a graph of next to nothing shall not look like a mountain.
 */
export function spark(values, { width = 96, height = 22, top = 0, label = '' } = {}) {
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, width, height, class: 'spark', role: 'img', preserveAspectRatio: 'none' });
  svg.setAttribute('aria-label', label);
  draw(svg, values, width, height, top);
  return svg;
}

function draw(svg, values, width, height, top) {
  const highest = Math.max(top, ...values.filter((value) => value !== null));
  const last = values.length - 1;
  const x = (at) => (last > 0 ? (at / last) * width : width);
  const y = (value) => height - 1.5 - (highest > 0 ? (value / highest) * (height - 3) : 0);
  let run = [];
  const end = () => {
    if (run.length === 1) svg.append(make('circle', { cx: run[0][0].toFixed(1), cy: run[0][1].toFixed(1), r: 1.4 }));
    if (run.length > 1) {
      const line = run.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join('L');
      svg.append(make('path', { class: 'area', d: `M${run[0][0].toFixed(1)} ${height}L${line}L${run.at(-1)[0].toFixed(1)} ${height}Z` }));
      svg.append(make('path', { class: 'line', d: `M${line}` }));
    }
    run = [];
  };
  values.forEach((value, at) => (value === null ? end() : run.push([x(at), y(value)])));
  end();
}

/** The largest of values that may be null; `null` where there is none. */
export const most = (values) => values.reduce((top, value) => (value === null ? top : Math.max(top ?? value, value)), null);

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes in three digits. */
export function bytes(value) {
  if (value === null || value === undefined) return '–';
  let [number, unit] = [value, 0];
  while (number >= 1000 && unit < UNITS.length - 1) [number, unit] = [number / 1024, unit + 1];
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toPrecision(number >= 10 ? 3 : 2)} ${UNITS[unit]}`;
}

/** Bytes a second in a few letters, where the heading says what they are. */
export const brief = (value) => (value === null || value === undefined ? '–' : bytes(value).replace(/ (.)?i?B$/, (_, unit) => unit ?? '').replace(/^(\d\d+)\.\d+/, '$1'));

/** Cores: a thousandth is `1m`, as in Kubernetes. */
export function cores(value) {
  if (value === null || value === undefined) return '–';
  if (value < 0.0005) return '0';
  return value < 1 ? `${Math.round(value * 1000)}m` : value.toFixed(value < 10 ? 2 : 1);
}

export const rate = (value) => (value === null || value === undefined ? '–' : `${bytes(value)}/s`);

/** A time in its largest unit. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole}s`;
  if (whole < 7200) return `${Math.floor(whole / 60)}m`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)}h`;
  return `${Math.floor(whole / 86_400)}d`;
}

export const percent = (part, all) => (all > 0 && part !== null ? `${Math.round((part / all) * 100)} %` : '');
