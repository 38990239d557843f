// Checks of the overview: a real agent on a node that the test moves, and pushes made by hand for what is many or hostile.

import assert from 'node:assert/strict';
import { join } from 'node:path';

export const HOSTILE_POD = '<img src=x onerror="window.hacked=1">\u202e';

/** A push as an agent makes it, in OTLP/JSON. */
export async function push(http, node, pods, { cpu = 0, cluster = 'prod' } = {}) {
  const now = BigInt(Date.now()) * 1_000_000n;
  const metrics = new Map();
  const add = (name, labels, value) => {
    const attributes = Object.entries(labels).map(([key, text]) => ({ key, value: { stringValue: text } }));
    if (!metrics.has(name)) metrics.set(name, []);
    metrics.get(name).push({ timeUnixNano: String(now), asDouble: value, attributes });
  };
  add('node_cpu_seconds_total', { cpu: '0', mode: 'idle' }, 1);
  add('node_memory_MemTotal_bytes', {}, 64e9);
  add('node_memory_MemAvailable_bytes', {}, 30e9);
  for (const { namespace, pod, cores = 0.01, memory = 1e8, waiting = '', restarts = 0 } of pods) {
    const labels = { namespace, pod, uid: `${namespace}-${pod}` };
    add('kube_pod_status_phase', { ...labels, phase: 'Running' }, 1);
    add('kube_pod_status_ready', { ...labels, condition: waiting ? 'false' : 'true' }, 1);
    add('kube_pod_container_status_restarts_total', { ...labels, container: 'app' }, restarts);
    if (waiting) add('kube_pod_container_status_waiting_reason', { ...labels, container: 'app', reason: waiting }, 1);
    add('container_cpu_usage_seconds_total', { ...labels, id: '/p' }, 1000 + cpu * cores);
    add('container_memory_working_set_bytes', { ...labels, id: '/p' }, memory);
  }
  for (const namespace of new Set(pods.map((pod) => pod.namespace))) {
    const own = pods.filter((pod) => pod.namespace === namespace);
    add('sonde_namespace_cpu_usage_seconds_total', { namespace }, 1000 + cpu * own.reduce((sum, { cores = 0.01 }) => sum + cores, 0));
    add('sonde_namespace_pods', { namespace, phase: 'Running' }, own.length);
  }
  const body = { resourceMetrics: [{
    resource: { attributes: [['k8s.cluster.name', cluster], ['k8s.node.name', node]].map(([key, text]) => ({ key, value: { stringValue: text } })) },
    scopeMetrics: [{ scope: { name: 'sonde-agent' }, metrics: [...metrics].map(([name, dataPoints]) => ({ name, gauge: { dataPoints } })) }],
  }] };
  const answer = await fetch(`http://127.0.0.1:${http}/v1/metrics`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.text());
}

/** Pods for a page that shows what a cluster looks like. */
export function furnish(node) {
  const replica = (name) => ['ReplicaSet', name];
  const busy = node.add('shop', 'web-5d9c7b6f4-x2x8p', { cores: 0.02, memory: 180 << 20, traffic: 90_000, owner: replica('web-5d9c7b6f4') });
  node.add('shop', 'web-5d9c7b6f4-kq7zd', { cores: 0.21, memory: 176 << 20, traffic: 84_000, owner: replica('web-5d9c7b6f4') });
  const payments = node.add('shop', 'payments-0', { cores: 0.09, memory: 410 << 20, traffic: 12_000, owner: ['StatefulSet', 'payments'] });
  node.add('billing', 'invoices-7c6f9d-8wq2m', { cores: 0.35, memory: 96 << 20, owner: replica('invoices-7c6f9d') });
  node.add('search', 'indexer-2', { cores: 0.62, memory: 470 << 20, traffic: 400_000, owner: ['StatefulSet', 'indexer'] });
  node.add('kube-system', 'coredns-6f6b679f8f-jvn4x', { cores: 0.013, memory: 22 << 20, traffic: 9_000 });
  node.add('kube-system', 'cni-hx6nl', { cores: 0.03, memory: 61 << 20, owner: ['DaemonSet', 'cni'] });
  return { busy, payments };
}

export function overview({ check, $, appears, until, sleep, shots, node, pods, http, web }) {
  const home = `http://127.0.0.1:${web}/`;
  const row = (view, name) => $(view, '#pods tr[data-key]').filter({ hasText: name });
  async function look(view, query = '') {
    await view.goto(home + query);
    await view.waitForFunction(() => document.querySelector('#status').textContent);
  }
  const cores = (text) => (text.endsWith('m') ? Number(text.slice(0, -1)) / 1000 : Number(text));
  const cpu = async (view, name) => cores((await row(view, name).locator('td').nth(3).textContent()).split(' ')[0]);

  check('the CPU of a pod that is made busy is shown, with its namespace’s and a graph', async (view) => {
    await look(view);
    await appears(row(view, pods.busy.name));
    await until('its CPU before', async () => Math.abs((await cpu(view, pods.busy.name)) - 0.02) < 0.01, 15_000);
    pods.busy.cores = 1.4;
    await until('its CPU', async () => Math.abs((await cpu(view, pods.busy.name)) - 1.4) < 0.14, 20_000);
    await until('it is the first', async () => (await $(view, '#pods tr').first().textContent()).includes(pods.busy.name), 10_000);
    // The graphs are asked for apart from the rows.
    await until('its graph', async () => (await row(view, pods.busy.name).locator('.spark .line').count()) > 0, 20_000);
    const shop = $(view, '#namespaces tbody tr', { hasText: 'shop' });
    await until('the namespace’s CPU', async () => cores((await shop.locator('td').nth(2).textContent()).split(' ')[0]) > 1.4, 20_000);
    const there = $(view, '#nodes tbody tr', { hasText: node.name });
    await until('the node’s CPU', async () => cores((await there.locator('td').nth(2).textContent()).split(' ')[0]) > 1.4, 10_000);
    assert.match(await there.textContent(), /of 4/);
  });

  check('a pod’s change of state is shown, and troubled pods are found', async (view) => {
    await look(view);
    await until('it runs', async () => (await row(view, 'payments-0').locator('.state').textContent()) === 'Running', 10_000);
    Object.assign(pods.payments, { waiting: 'CrashLoopBackOff', ready: false, restarts: 4 });
    await until('it crashes', async () => (await row(view, 'payments-0').locator('.state').textContent()) === 'CrashLoopBackOff', 20_000);
    assert.equal(await row(view, 'payments-0').locator('.some').textContent(), '4');
    await until('counted', async () => /Troubled \(1\)/.test(await $(view, '#trouble').textContent()));
    await view.keyboard.press('t');
    await until('only it', async () => (await $(view, '#pods tr[data-key]').count()) === 1);
    assert.match(view.url(), /problem=true/);
    await row(view, 'payments-0').locator('.toggle').click();
    await appears(view.getByText('CrashLoopBackOff (before: OOMKilled)'));
    assert.match(await $(view, '.inside').textContent(), /StatefulSet payments/);
  });

  check('one click leads from a pod to its logs, where a line is found within five seconds of its writing', async (view) => {
    await look(view);
    await row(view, pods.busy.name).getByRole('link', { name: `Logs of ${pods.busy.name}` }).click();
    await view.waitForURL(/\/logs\?/);
    assert.equal(await view.inputValue('#namespace'), 'shop');
    assert.equal(await view.inputValue('#pod'), pods.busy.name);
    await view.waitForSelector('#live[data-link=open]');
    const text = `order ${Date.now()} placed`;
    const start = Date.now();
    node.write(pods.busy, text);
    await appears($(view, '.row').filter({ hasText: text }), 5000);
    console.log(`     followed after ${Date.now() - start} ms`);
    const word = `found${Date.now()}`;
    node.write(pods.busy, `a line with ${word} in it`);
    const written = Date.now();
    await view.fill('#q', word);
    await until('found', async () => (await $(view, '.row').filter({ hasText: word }).count()) === 1, 5000);
    console.log(`     found after ${Date.now() - written} ms`);
    await view.goBack();
    await view.goBack();
    await view.waitForURL(home);
    await appears(row(view, pods.busy.name));
  });

  check('pods are filtered, sorted and grouped by what one clicks, and the address holds it', async (view) => {
    await look(view);
    await $(view, '#namespaces .link', { hasText: 'kube-system' }).click();
    await until('two pods', async () => (await $(view, '#pods tr[data-key]').count()) === 2);
    assert.equal(new URL(view.url()).searchParams.get('namespace'), 'kube-system');
    await $(view, '#podtable th', { hasText: 'Memory' }).first().getByRole('button').click();
    await until('sorted', async () => (await $(view, '#podtable th[aria-sort=descending]').textContent()) === 'Memory');
    await until('the larger is first', async () => /cni/.test(await $(view, '#pods tr').first().textContent()));
    await $(view, '#podtable th[aria-sort] button').click();
    await until('the smaller is first', async () => /coredns/.test(await $(view, '#pods tr').first().textContent()));
    const address = view.url();
    await view.getByRole('button', { name: 'End the filter: namespace kube-system' }).click();
    await until('all again', async () => (await $(view, '#pods tr[data-key]').count()) > 5);
    await view.goto(address);
    await until('the address is the view', async () => (await $(view, '#pods tr[data-key]').count()) === 2);
    await view.keyboard.press('/');
    await view.keyboard.type('nowheretobefound');
    await appears(view.getByText('No pod matches'));
    await view.keyboard.press('Escape');
    await view.getByRole('button', { name: 'Clear all filters' }).click();
    await until('all again', async () => (await $(view, '#pods tr[data-key]').count()) > 5);
    assert.equal(view.url(), `${home}?sort=memory&order=asc`);
  });

  check('the keyboard is enough for the overview', async (view) => {
    await look(view, '?sort=name&order=asc');
    await appears(row(view, 'payments-0'));
    await view.keyboard.press('j');
    await view.keyboard.press('j');
    await view.keyboard.press('k');
    await view.keyboard.press('j');
    const at = () => view.evaluate(() => [...document.querySelectorAll('#pods tr[data-key]')].findIndex((each) => each.contains(document.activeElement)));
    assert.equal(await at(), 1);
    const chosen = await view.evaluate(() => document.activeElement.textContent);
    await view.keyboard.press('o');
    await appears($(view, '.inside .parts'));
    await until('drawn', async () => (await $(view, '.inside .spark .line').count()) > 0);
    // Two looks later the focus is where it was.
    await sleep(6000);
    assert.equal(await view.evaluate(() => document.activeElement.textContent), chosen);
    await view.keyboard.press('Escape');
    assert.equal(await $(view, '.inside').count(), 0);
    await view.keyboard.press('?');
    assert(await view.evaluate(() => document.querySelector('#helpbox').open));
    await view.keyboard.press('Escape');
    await view.keyboard.press('p');
    assert.match(await $(view, '#status').textContent(), /Paused/);
    await view.keyboard.press('p');
    await view.keyboard.press('Enter');
    await view.waitForURL(/\/logs\?/);
    assert.equal(await view.inputValue('#pod'), chosen);
    await view.evaluate(() => document.activeElement.blur());
    await view.keyboard.press('g');
    await view.waitForURL(home);
  });

  check('everything has a name, and can be read in light and dark', async (view) => {
    for (const colorScheme of ['light', 'dark']) {
      await view.emulateMedia({ colorScheme });
      await look(view);
      await appears(row(view, 'payments-0'));
      const found = await view.evaluate(() => {
        const luminance = (colour) => {
          const [r, g, b] = colour.match(/[\d.]+/g).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (node) => {
          const colour = getComputedStyle(node).backgroundColor;
          return /rgba\(.*, 0\)|color-mix|\//.test(colour) && node.parentElement ? ground(node.parentElement) : colour;
        };
        const texts = [...document.querySelectorAll('td, th button, .state, .of, #status, .much, .views a, .act a, .podname a, .podname .space')];
        const worst = texts.filter((node) => node.textContent.trim() && node.checkVisibility()).map((node) => {
          const [a, b] = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((x, y) => y - x);
          return { ratio: (a + 0.05) / (b + 0.05), text: node.textContent, name: node.className };
        }).sort((a, b) => a.ratio - b.ratio)[0];
        const nameless = [...document.querySelectorAll('button, a, input, select, [role=img]')].filter((node) => node.checkVisibility()
          && !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length || node.title)).map((node) => node.outerHTML.slice(0, 90));
        return { worst, nameless, columns: [...document.querySelectorAll('th')].filter((th) => !th.textContent.trim() || th.scope !== 'col').length };
      });
      assert(found.worst.ratio >= 4.5, `${colorScheme}: ${JSON.stringify(found.worst)}`);
      assert.deepEqual([found.nameless, found.columns], [[], 0]);
    }
  });

  check('it fits a laptop and a phone, and looks as it should', async (view) => {
    for (const [width, height, scheme, query, name] of [
      [1280, 800, 'light', '', 'overview'], [1280, 800, 'dark', '?namespace=shop', 'overview-dark'], [1024, 700, 'light', '', 'overview-small'],
      [390, 800, 'light', '', 'overview-phone'], [390, 800, 'dark', '?q=shop', 'overview-phone-dark'],
    ]) {
      await view.setViewportSize({ width, height });
      await view.emulateMedia({ colorScheme: scheme });
      await look(view, query);
      await appears(row(view, 'payments-0'));
      await sleep(300);
      assert(await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} is too wide`);
      if (shots) await view.screenshot({ path: join(shots, `${name}.png`) });
      await row(view, 'payments-0').locator('.toggle').click();
      await sleep(400);
      await row(view, 'payments-0').scrollIntoViewIfNeeded();
      if (shots) await view.screenshot({ path: join(shots, `${name}-open.png`), fullPage: width < 500 });
      assert(await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} is too wide when open`);
      assert(await row(view, 'payments-0').getByRole('link', { name: /^Logs of/ }).isVisible());
    }
  });

  check('what a pod is called is never run, and does not turn the page around', async (view) => {
    const pushed = [{ namespace: 'hostile', pod: HOSTILE_POD }, { namespace: '"><script>hacked=1</script>', pod: 'x'.repeat(253), waiting: '<b>bold</b>' }];
    await push(http, '<i>node</i>', pushed);
    await look(view, '?q=hostile');
    await appears(row(view, '<img src=x'));
    await view.goto(`${home}?q=${'x'.repeat(20)}`);
    await appears(row(view, '<b>bold</b>'));
    await row(view, '<b>bold</b>').locator('.toggle').click();
    await appears($(view, '.inside'));
    assert.equal(await view.evaluate(() => window.hacked), undefined);
    assert.equal(await $(view, 'main img, main script, td b').count(), 0);
    assert(await view.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await view.goto(`${home}?q=hostile`);
    await row(view, '<img src=x').getByRole('link', { name: /^Logs of/ }).click();
    await view.waitForURL(/\/logs\?/);
    assert.equal(await view.inputValue('#pod'), HOSTILE_POD);
  });

  check('five thousand pods are pages of fifty, and quick', async (view) => {
    const many = (n) => Array.from({ length: 500 }, (_, at) => ({ namespace: `team-${(n * 500 + at) % 40}`, pod: `worker-${n}-${at}`, cores: (at % 90) / 100 }));
    for (const cpu of [0, 2]) {
      for (let n = 0; n < 10; n += 1) await push(http, `big-${n}`, many(n), { cpu });
      if (!cpu) await sleep(2000);
    }
    await look(view);
    await until('all are counted', async () => /5,0\d\d/.test(await $(view, '#podcount').textContent()));
    assert.equal(await $(view, '#pods tr').count(), 50);
    const start = Date.now();
    await view.fill('#q', 'worker-7-123');
    await until('found', async () => (await $(view, '#pods tr').count()) === 1);
    console.log(`     found among 5,000 after ${Date.now() - start} ms`);
    await view.fill('#q', 'team-7 worker');
    await until('a page', async () => /^125 of/.test(await $(view, '#podcount').textContent()));
    await view.click('#forth');
    await until('the next', async () => (await $(view, '#place').textContent()) === '51 to 100 of 125');
    await view.click('#forth');
    await until('the last', async () => (await $(view, '#pods tr').count()) === 25);
    assert(await $(view, '#forth').isDisabled());
    await until('the first namespaces', async () => (await $(view, '#namespaces tbody tr').count()) === 8);
    await view.getByRole('button', { name: /Show all \d+/ }).first().click();
    await until('all namespaces', async () => (await $(view, '#namespaces tbody tr').count()) > 40);
    if (shots) await view.screenshot({ path: join(shots, 'overview-many.png') });
  });

  check('a node that falls silent is said to be old, and so is a collector that does not answer', async (view) => {
    await look(view, '?q=hostile');
    await view.route('**/api/v1/*', async (route) => {
      const response = await route.fetch();
      const body = await response.json();
      for (const list of ['nodes', 'pods', 'namespaces']) for (const item of body[list] ?? []) Object.assign(item, { stale: true, age_seconds: 75 });
      return route.fulfill({ response, json: body });
    });
    await until('old', async () => /75s ago/.test(await row(view, '<img src=x').locator('.state').textContent()), 10_000);
    assert.match(await $(view, '#status').textContent(), /not heard of/);
    assert.match(await $(view, '#nodes').textContent(), /no news for 75s/);
    if (shots) await view.screenshot({ path: join(shots, 'overview-stale.png') });
    await view.unroute('**/api/v1/*');
    await view.route('**/api/v1/*', (route) => route.abort());
    await until('broken', async () => /Not live: The collector does not answer; what is shown is \d+s old/.test(await $(view, '#status').textContent()), 10_000);
    assert.equal(await row(view, '<img src=x').count(), 1, 'what was seen stays');
  });

  check('without agents the overview says how to get some', async (view) => {
    await view.route('**/api/v1/*', (route) => route.fulfill({ json: { now: 1, total: 0, matched: 0, troubled: 0, nodes: [], pods: [], namespaces: [] } }));
    await view.goto(home);
    await appears(view.getByText('No metrics yet'));
    assert.match(await $(view, '#empty').textContent(), /export: \{endpoint: http:\/\/127\.0\.0\.1:4317\}/);
    if (shots) await view.screenshot({ path: join(shots, 'overview-empty.png') });
  });

  check('the overview asks for a token too, and the logs know it then', async (view) => {
    await view.route('**/api/**', async (route) => {
      const ok = route.request().headers().authorization === 'Bearer open sesame';
      return ok ? route.continue() : route.fulfill({ status: 401, body: 'no' });
    });
    await view.goto(home);
    await appears($(view, '#login'));
    await view.fill('#token', 'open sesame');
    await view.keyboard.press('Enter');
    await appears($(view, '#pods tr'));
    await view.getByRole('link', { name: 'Logs', exact: true }).first().click();
    await appears($(view, '.row'));
  });
}
