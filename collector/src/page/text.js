// Text that strangers wrote, made safe to look at.
//
// A log line may hold anything. It reaches the document through text nodes only; terminal colours become classes,
// other terminal commands are left out, and what would be invisible or would reorder the line is spelt out.

// Terminal commands (ECMA-48): CSI, then strings that end (OSC, DCS, SOS, PM, APC), then two-byte escapes. Strings
// that never end are not taken for commands: they would hide the rest of the line. After them: controls but tab and
// newline, and what Unicode has that is not seen or turns the reading order (bidi controls, zero widths, tags).
const SPECIAL = new RegExp(
  '\\x1b\\[([0-?]{0,64})[ -/]{0,8}([@-~])' +
    '|\\x1b[\\]PX^_][^\\x07\\x1b]{0,2000}(?:\\x07|\\x1b\\\\)' +
    '|\\x1b[ -/]{0,8}[0-OQ-WYZ`-~]' +
    '|([\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f])' +
    '|([\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]' +
    '|[\\u{e0000}-\\u{e007f}])',
  'gu',
);

/** An element: tag, class, children (text or nodes). */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** The names of the controls 0 to 31 (ECMA-48, ISO 646). */
const CONTROLS =
  'NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US'.split(' ');

function spell(character) {
  const code = character.codePointAt(0);
  const hex = `U+${code.toString(16).toUpperCase().padStart(4, '0')}`;
  const span = element('span', 'odd', code === 0x7f ? 'DEL' : (CONTROLS[code] ?? hex));
  span.title = hex;
  return span;
}

/** Colour and weight after a "select graphic rendition" (ECMA-48, 8.3.117). */
function render(parameters, style) {
  const codes = parameters.split(/[;:]/).map(Number);
  let { colour, bold } = style;
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i];
    if (code === 0) [colour, bold] = [null, false];
    else if (code === 1) bold = true;
    else if (code === 22) bold = false;
    else if (code === 39) colour = null;
    else if (code >= 30 && code <= 37) colour = code - 30;
    else if (code >= 90 && code <= 97) colour = code - 90;
    else if (code === 38 || code === 48) {
      const indexed = codes[i + 1] === 5;
      if (code === 38 && indexed) colour = codes[i + 2] < 16 ? codes[i + 2] % 8 : null;
      i += indexed ? 2 : 4;
    }
  }
  return { colour, bold };
}

/** What a query looks for, as expressions that find it: the store's rules for words and phrases. */
export function needles(query) {
  const found = [];
  for (const [, phrase, word] of query.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/gu)) {
    const text = phrase === undefined ? word : phrase.replace(/\\(["\\])/g, '$1');
    if (!text) continue;
    const plain = text.replace(/[.*+?^${}()|[\]\\/-]/g, '\\$&').replace(/\\-/g, '\\x2d');
    try {
      found.push(
        phrase === undefined
          ? new RegExp(`(?<![\\p{L}\\p{N}])${plain}(?![\\p{L}\\p{N}])`, 'giu')
          : new RegExp(plain, 'gu'),
      );
    } catch {
      // Marks are a courtesy.
    }
  }
  return found;
}

function marked(text, wanted, into) {
  const ranges = [];
  for (const expression of wanted) {
    for (const match of text.matchAll(expression)) ranges.push([match.index, match.index + match[0].length]);
  }
  ranges.sort((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [start, end] of ranges) {
    if (start < at) continue;
    into.append(text.slice(at, start), element('mark', '', text.slice(start, end)));
    at = end;
  }
  into.append(text.slice(at));
}

/** A line as nodes. */
export function show(text, wanted = []) {
  const out = document.createDocumentFragment();
  let style = { colour: null, bold: false };
  let at = 0;
  const plain = (piece) => {
    if (!piece) return;
    const names = [style.colour === null ? '' : `a${style.colour}`, style.bold ? 'bold' : ''].join(' ').trim();
    if (!names) return marked(piece, wanted, out);
    const span = element('span', names);
    marked(piece, wanted, span);
    out.append(span);
  };
  for (const match of text.matchAll(SPECIAL)) {
    plain(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [, parameters, final, control, unseen] = match;
    if (final === 'm') style = render(parameters, style);
    else if (control || unseen) out.append(spell(match[0]));
  }
  plain(text.slice(at));
  return out;
}

/** A line as text: for titles, labels and lists. */
export function plain(text) {
  return text.replace(SPECIAL, (all, parameters, final, control, unseen) => (control || unseen ? '\ufffd' : ''));
}
