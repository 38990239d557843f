// The collector's pages in a real browser: the logs here, the overview in overview.js.
//
// usage: node run.js, with SONDE_PAGE = where ./install put things (default target/page), SONDE_BIN = the folder of the
// daemons (default target/debug), SONDE_SHOTS = a folder for screenshots (default: none are kept),
// SONDE_SOURCE=1 = the documents from the source tree instead of the binary, to work on them without building,
// SONDE_ONLY = checks whose name has this word, SONDE_SLOW = up to so many milliseconds before an answer of the API.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Node } from './node.js';
import { furnish, overview } from './overview.js';

const top = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const installed = resolve(process.env.SONDE_PAGE ?? join(top, 'target/page'));
const bin = process.env.SONDE_BIN ?? join(top, 'target/debug');
const shots = process.env.SONDE_SHOTS;
const { chromium } = createRequire(join(installed, 'package.json'))('playwright-core');

const sleep = (millis) => new Promise((done) => setTimeout(done, millis));
const freePort = () => new Promise((done) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});

const dir = mkdtempSync(join(tmpdir(), 'sonde-page-'));
const [grpc, http, web] = [await freePort(), await freePort(), await freePort()];
writeFileSync(join(dir, 'collector.yaml'),
  `data_dir: ${dir}/data\nqueue: {min_free: 0B}\nlisten: {otlp_grpc: "127.0.0.1:${grpc}", otlp_http: "127.0.0.1:${http}", http: "127.0.0.1:${web}"}\n`);
const log = openSync(join(dir, 'log'), 'a');
const start = () => spawn(join(bin, 'sonde-collector'), ['--config', join(dir, 'collector.yaml')], { stdio: ['ignore', log, log] });
let collector = start();
const page = `http://127.0.0.1:${web}/logs`;
const node = new Node(dir, 'worker-1', join(bin, 'sonde-agent'), grpc);
const pods = furnish(node);

// ---- Records

let sent = 0;
async function send(records) {
  const attribute = (key, value) => ({ key, value: { stringValue: value } });
  const resourceLogs = records.map(({ namespace = 'shop', pod = 'web-5d9c7b6f4-x2x8p', container = 'app', node = 'node-a', body, level = 9, ago = 0, more = {} }) => {
    sent += 1;
    const names = { 'k8s.cluster.name': 'prod', 'k8s.node.name': node, 'k8s.namespace.name': namespace, 'k8s.pod.name': pod, 'k8s.container.name': container };
    return {
      resource: { attributes: Object.entries(names).map(([key, value]) => attribute(key, value)) },
      scopeLogs: [{ logRecords: [{
        timeUnixNano: String(BigInt(Date.now() - ago) * 1_000_000n + BigInt(sent % 1_000_000)),
        observedTimeUnixNano: String(BigInt(Date.now()) * 1_000_000n),
        severityNumber: level, body: { stringValue: body },
        attributes: Object.entries({ 'log.iostream': 'stdout', 'log.record.uid': sent.toString(16).padStart(32, '0'), ...more }).map(([key, value]) => attribute(key, value)),
        traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7',
      }] }],
    };
  });
  const answer = await fetch(`http://127.0.0.1:${http}/v1/logs`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ resourceLogs }),
  });
  assert.equal(answer.status, 200, await answer.text());
}

const HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> javascript:hacked=1';
const everyday = [
  ['shop', 'web-5d9c7b6f4-x2x8p', 'app', 9, 'GET /cart 200 in 12 ms user=8841'],
  ['shop', 'web-5d9c7b6f4-kq7zd', 'app', 9, 'GET /products/1187 200 in 31 ms'],
  ['shop', 'payments-0', 'app', 13, 'slow query: SELECT * FROM orders WHERE customer_id = $1 took 1,284 ms'],
  ['shop', 'payments-0', 'app', 17, 'charge failed: connection refused by 10.42.3.17:5432, attempt 2 of 5'],
  ['billing', 'invoices-7c6f9d-8wq2m', 'worker', 9, '{"level":"info","msg":"invoice rendered","id":"inv_20871","pages":3,"duration_ms":418}'],
  ['billing', 'invoices-7c6f9d-8wq2m', 'worker', 5, 'cache: hit ratio 0.973 over the last minute'],
  ['kube-system', 'coredns-6f6b679f8f-jvn4x', 'coredns', 9, '[INFO] 10.42.0.31:52911 - 17311 "A IN payments.shop.svc.cluster.local. udp 54 false 512" NOERROR 0.000121s'],
  ['kube-system', 'cni-hx6nl', 'agent', 21, 'FATAL cannot allocate an address: pool 10.42.3.0/24 is exhausted'],
  ['search', 'indexer-2', 'indexer', 9, '\u001b[32mINFO\u001b[0m segment \u001b[1mlogs-000318\u001b[0m merged, \u001b[36m1.2 GiB\u001b[0m in 4.1 s'],
  ['search', 'indexer-2', 'indexer', 13, '\u001b[33mWARN\u001b[0m heap at 81 %, next merge is put off'],
];

// ---- Checks

const checks = [];
const check = (name, run) => checks.push({ name, run });
const $ = (view, selector, options) => view.locator(selector, options);
const row = (view, text) => $(view, '.row').filter({ hasText: text });
const settled = (view) => view.waitForFunction(() => document.querySelector('#rows').getAttribute('aria-busy') === 'false');
async function open(view, query = '?live=off') {
  await view.goto(page + query);
  await settled(view);
}
const appears = (locator, millis = 15_000) => locator.first().waitFor({ timeout: millis });
async function until(what, test, millis = 15_000) {
  const limit = Date.now() + millis;
  while (!(await test())) {
    assert(Date.now() < limit, what);
    await sleep(50);
  }
}

check('it fits a laptop and a phone', async (view) => {
  for (const [width, height, scheme, query, name] of [
    [1280, 800, 'light', '?live=off', 'wide'], [1280, 800, 'dark', '?live=off&namespace=shop', 'wide-dark'],
    [380, 780, 'light', '?live=off', 'phone'], [380, 780, 'dark', '?live=off&namespace=hostile', 'phone-dark'],
  ]) {
    await view.setViewportSize({ width, height });
    await view.emulateMedia({ colorScheme: scheme });
    await open(view, query);
    await sleep(300);
    assert(await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} is too wide`);
    if (shots) await view.screenshot({ path: join(shots, `${name}.png`) });
    await view.keyboard.press('j');
    await view.keyboard.press('Enter');
    if (shots) await view.screenshot({ path: join(shots, `${name}-open.png`) });
    assert(await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} is too wide when open`);
  }
});

check('a line is found by its text', async (view) => {
  await open(view);
  await view.fill('#q', '"connection refused"');
  await until('the search narrows', async () => (await $(view, '.row:not(.error)').count()) === 0 && (await $(view, '.row').count()) > 0);
  assert.equal(await $(view, 'mark').first().textContent(), 'connection refused');
  assert.equal(new URL(view.url()).searchParams.get('q'), '"connection refused"');
});

check('a click on a name filters by it, and the back button goes back', async (view) => {
  await open(view);
  await row(view, 'invoice rendered').first().locator('.name.namespace').click();
  await until('only billing', async () => (await $(view, '.row').count()) > 0 && (await row(view, 'GET /cart').count()) === 0);
  assert.equal(await view.inputValue('#namespace'), 'billing');
  assert.equal(new URL(view.url()).searchParams.get('namespace'), 'billing');
  await view.goBack();
  await appears(row(view, 'GET /cart'));
  assert.equal(await view.inputValue('#namespace'), '');
  await view.locator('#tree .space', { hasText: 'kube-system' }).click();
  await appears($(view, '#tree .pod'));
  await view.locator('#tree .pod', { hasText: 'coredns' }).click();
  await until('only coredns', async () => (await row(view, 'coredns').count()) === (await $(view, '.row').count()));
});

check('a live tail shows a new line within five seconds, and a paused one does not', async (view) => {
  await open(view, '?namespace=shop');
  await view.waitForSelector('#live[data-link=open]');
  const text = `fresh-${sent}`;
  const start = Date.now();
  await send([{ body: text }, { body: text, namespace: 'elsewhere' }]);
  await appears(row(view, text), 5000);
  console.log(`     after ${Date.now() - start} ms`);
  assert.equal(await row(view, text).count(), 1);
  await view.keyboard.press('l');
  await until('paused', async () => (await view.getAttribute('#live', 'aria-pressed')) === 'false');
  await send([{ body: `paused-${text}` }]);
  await sleep(1500);
  assert.equal(await row(view, `paused-${text}`).count(), 0);
  await view.keyboard.press('l');
  await appears(row(view, `paused-${text}`));
});

check('lines that come while one reads are held back until asked for', async (view) => {
  await open(view, '');
  await view.waitForSelector('#live[data-link=open]');
  await view.keyboard.press('j');
  const text = `held-${sent}`;
  await send([{ body: text }]);
  await appears($(view, '#fresh'));
  assert.equal(await row(view, text).count(), 0);
  assert.equal(await $(view, '#fresh').textContent(), '1 new line');
  await view.click('#fresh');
  await appears(row(view, text));
});

check('what a line holds is never run, and nothing in it is hidden', async (view) => {
  await open(view, '?live=off&namespace=hostile');
  await appears(row(view, '<img src=x onerror='));
  await view.keyboard.press('j');
  for (let i = 0; i < 4; i += 1) {
    await view.keyboard.press('Enter');
    await view.keyboard.press('j');
  }
  await sleep(300);
  assert.equal(await view.evaluate(() => window.hacked), undefined);
  assert.equal(await $(view, 'main img, main script').count(), 0);
  assert.equal(await $(view, '.body .odd', { hasText: 'U+202E' }).count(), 1);
  assert.equal(await $(view, '.body .odd', { hasText: 'NUL' }).count(), 1);
  assert.equal(await $(view, '.body .a1').first().textContent(), 'red');
  const shown = await row(view, 'after the title').first().locator('.body').textContent();
  assert(!shown.includes('\u001b') && !shown.includes(']0;'), shown);
  assert((await row(view, 'unfinished').first().locator('.body').textContent()).includes('is not swallowed'));
  const long = row(view, 'xxxxxxxx').first();
  assert((await long.locator('.body').textContent()).length < 2000);
  const { width } = await long.boundingBox();
  assert(width <= 1280 && (await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth)));
  await long.getByText(/Show all 300,000/).click();
  assert.equal((await long.locator('.whole').textContent()).length, 300_000);
});

check('the keyboard is enough', async (view) => {
  await open(view);
  await view.keyboard.press('/');
  assert.equal(await view.evaluate(() => document.activeElement.id), 'q');
  await view.keyboard.type('j/k');
  await view.keyboard.press('Escape');
  assert.equal(await view.inputValue('#q'), 'j/k');
  await until('the search is done', async () => (await row(view, 'GET /cart').count()) === 0);
  await view.fill('#q', '');
  await view.keyboard.press('Escape');
  await appears(row(view, 'GET /cart'));
  await settled(view);
  await view.keyboard.press('j');
  await view.keyboard.press('j');
  await view.keyboard.press('k');
  await view.keyboard.press('j');
  assert.equal(await view.evaluate(() => [...document.querySelectorAll('.row')].findIndex((each) => each.matches('.selected'))), 1);
  await view.keyboard.press('Enter');
  const details = $(view, '.row.selected .details');
  await appears(details);
  const text = await details.textContent();
  for (const part of ['trace_id', '4bf92f3577b34da6a3ce929d0e0e4736', 'uid', 'prod', 'Copy']) assert(text.includes(part), part);
  await view.keyboard.press('Enter');
  assert.equal(await details.count(), 0);
  await view.keyboard.press('?');
  assert(await view.evaluate(() => document.querySelector('#helpbox').open));
  await view.keyboard.press('Escape');
  assert(!(await view.evaluate(() => document.querySelector('#helpbox').open)));
});

check('older lines follow, each once', async (view) => {
  await open(view, '?live=off&namespace=many');
  assert.equal(await $(view, '.row').count(), 200);
  await view.click('#count');
  await until('counted', async () => (await $(view, '#count').textContent()) === '450 match');
  await view.evaluate(() => scrollTo(0, document.body.scrollHeight));
  await until('the second page', async () => (await $(view, '.row').count()) >= 400);
  await until('the end', async () => {
    await view.evaluate(() => { scrollTo(0, 0); scrollTo(0, document.body.scrollHeight); });
    return (await $(view, '.row').count()) === 450;
  });
  const bodies = await $(view, '.body').allTextContents();
  assert.equal(new Set(bodies).size, 450);
  await appears(view.getByText('No older lines match.'));
});

check('an address is a search', async (view) => {
  await open(view, '?live=off&severity=warn&pod=payments-0&since=1h&q=slow');
  assert.equal(await view.inputValue('#severity'), 'warn');
  assert.equal(await view.inputValue('#pod'), 'payments-0');
  assert.equal(await view.inputValue('#range'), '1h');
  assert.equal(await view.inputValue('#q'), 'slow');
  assert((await $(view, '.row').count()) > 0);
});

check('what the collector says against a search is shown in words, as is emptiness', async (view) => {
  await open(view, '?live=off&q="open&since=yesterday');
  await until('words', async () => /The search: a quote is not closed/.test(await $(view, '#problem').textContent()));
  assert(/The start: `yesterday` is no time/.test(await $(view, '#problem').textContent()));
  await open(view, '?live=off&q=nowheretobefound');
  await appears(view.getByText('No line matches'));
  await view.getByRole('button', { name: 'Clear all filters' }).last().click();
  await appears(row(view, 'GET /cart'));
});

check('a token is asked for, kept for the tab and sent, also to the tail', async (view) => {
  await view.route('**/api/**', async (route) => {
    const ok = route.request().headers().authorization === 'Bearer open sesame';
    return ok ? route.continue() : route.fulfill({ status: 401, body: 'no' });
  });
  await view.goto(page);
  await appears($(view, '#login'));
  await view.fill('#token', 'wrong');
  await view.keyboard.press('Enter');
  await appears(view.getByText('The token was not accepted'));
  await view.fill('#token', 'open sesame');
  await view.keyboard.press('Enter');
  await appears(row(view, 'GET /cart'));
  await view.waitForSelector('#live[data-link=open]');
  await view.reload();
  await appears(row(view, 'GET /cart'));
});

check('the page is the only thing its policy lets in', async (view, context) => {
  const answer = await context.request.get(page);
  const policy = answer.headers()['content-security-policy'];
  assert(policy.includes("default-src 'none'") && !policy.includes('unsafe'), policy);
  const again = await context.request.get(page, { headers: { 'if-none-match': answer.headers().etag } });
  assert.equal(again.status(), 304);
});

check('every severity can be read, also none, in light and dark', async (view) => {
  for (const colorScheme of ['light', 'dark']) {
    await view.emulateMedia({ colorScheme });
    await open(view, '?live=off&namespace=levels');
    const worst = await view.evaluate(() => {
      const luminance = (colour) => {
        const [r, g, b] = colour.match(/[\d.]+/g).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (node) => {
        const colour = getComputedStyle(node).backgroundColor;
        return colour === 'rgba(0, 0, 0, 0)' && node.parentElement ? ground(node.parentElement) : colour;
      };
      // WCAG 2.2, contrast ratio.
      return Math.min(...[...document.querySelectorAll('.body, .row:not(.trace, .debug, .none) .level, .source .name')].map((node) => {
        const [a, b] = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      }));
    });
    assert.equal(await $(view, '.row').count(), 7);
    assert(worst >= 4.5, `${colorScheme}: ${worst}`);
  }
});

check('a collector that goes away and comes back is followed on, and what is read stays', async (view) => {
  await open(view, '');
  await view.waitForSelector('#live[data-link=open]');
  await view.keyboard.press('j');
  await view.keyboard.press('Enter');
  const gone = new Promise((done) => collector.once('exit', done));
  collector.kill();
  await gone;
  await until('it says so', async () => /Not live/.test(await $(view, '#status').textContent()));
  collector = start();
  await ready();
  const text = `meanwhile-${sent}`;
  await send([{ body: text }]);
  await view.waitForSelector('#live[data-link=open]', { timeout: 20_000 });
  await appears($(view, '#fresh'));
  assert.equal(await $(view, '.details').count(), 1);
  await view.click('#fresh');
  await appears(row(view, text));
});

async function ready() {
  for (let tries = 0; !(await fetch(`http://127.0.0.1:${web}/readyz`).then((answer) => answer.ok, () => false)); tries += 1) {
    assert(tries < 300, `the collector does not start; see ${dir}/log`);
    await sleep(100);
  }
}

async function fromSource(context) {
  const { headers } = await fetch(page);
  const policy = { 'content-security-policy': headers.get('content-security-policy') ?? '' };
  const names = { '/': 'index.html', '/logs': 'logs.html' };
  await context.route((url) => url.pathname in names || /\.(js|css)$/.test(url.pathname), (route) => {
    const { pathname } = new URL(route.request().url());
    route.fulfill({ path: join(top, 'collector/src/page', names[pathname] ?? pathname.slice(1)), headers: policy });
  });
}

overview({ check, $, appears, until, sleep, shots, node, pods, http, web });
// ---- Run

let failed = 0;
try {
  await ready();
  if (shots) mkdirSync(shots, { recursive: true });
  const records = [];
  for (let i = 0; i < 6; i += 1) {
    everyday.forEach(([namespace, pod, container, level, body], n) => {
      if ((i + n) % 3 !== 2 || i === 0) records.push({ namespace, pod, container, level, body, ago: i * 9_700 + n * 830 + 300, node: n % 2 ? 'node-b' : 'node-a' });
    });
  }
  await node.start();
  await send(records);
  await send([
    { namespace: 'hostile', pod: 'evil-0', body: HOSTILE },
    { namespace: 'hostile', pod: 'evil-0', body: 'user \u202egpj.exe\u202c was let in, \u0000 and \u001b[31mred\u001b[0m' },
    { namespace: 'hostile', pod: 'evil-0', body: '\u001b]0;a title\u0007after the title, \u001b[2Jnot cleared' },
    { namespace: 'hostile', pod: 'evil-0', body: 'an \u001b]0;unfinished command is not swallowed' },
    { namespace: 'hostile', pod: 'evil-0', body: 'x'.repeat(300_000) },
    { namespace: 'hostile', pod: '"><b>x', body: 'a pod that cannot be', more: { '<b>key</b>': '<i onclick=1>' } },
  ].map((record) => ({ ...record, ago: 120_000 })));
  await send([0, 1, 5, 9, 13, 17, 21].map((level) => ({ namespace: 'levels', pod: 'levels-0', body: `level ${level}`, level, ago: 700_000 })));
  // Many of one time: a page's border falls among them.
  const time = Date.now() - 600_000;
  for (let i = 0; i < 450; i += 150) {
    await send(Array.from({ length: 150 }, (_, n) => ({ namespace: 'many', pod: 'many-0', body: `number ${i + n}`, ago: Date.now() - time })));
  }
  await sleep(300);
  const browser = await chromium.launch({ executablePath: join(installed, 'chromium'), args: ['--no-sandbox', '--disable-gpu'] });
  const only = process.env.SONDE_ONLY ?? '';
  const slow = Number(process.env.SONDE_SLOW ?? 0);
  for (const { name, run } of checks.filter((each) => each.name.includes(only))) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    if (process.env.SONDE_SOURCE) await fromSource(context);
    if (slow) await context.route(/\/api\/v1\/(?!logs\/tail)/, (route) => sleep(Math.random() * slow).then(() => route.fallback()).catch(() => {}));
    const view = await context.newPage();
    view.setDefaultTimeout(15_000);
    const wrong = [];
    view.on('pageerror', (error) => wrong.push(error.message));
    view.on('console', (message) => { if (/Content Security Policy/.test(message.text())) wrong.push(message.text()); });
    try {
      await run(view, context);
      assert.deepEqual(wrong, []);
      console.log(`ok   ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error.stack ?? error}\n     ${wrong.join('\n     ')}`);
      if (shots) await view.screenshot({ path: join(shots, `failed-${failed}.png`) }).catch(() => {});
    }
    await context.close();
  }
  await browser.close();
} finally {
  node.stop();
  collector.kill();
  await sleep(500);
  rmSync(dir, { recursive: true, force: true });
}
console.log(`${checks.length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
