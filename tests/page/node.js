// A node to be watched: a cgroup tree, a `/proc` and a kubelet that a test moves, and a real agent on it.

import { spawn } from 'node:child_process';
import { appendFileSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const STARTED = new Date(Date.now() - 3 * 3_600_000).toISOString().replace(/\.\d+Z/, 'Z');

export class Node {
  constructor(dir, name, agent, collector) {
    Object.assign(this, { dir: join(dir, name), name, agent, collector, pods: [], cpu: 0 });
    mkdirSync(this.dir, { recursive: true });
  }

  /** Adds a pod of one container that uses so many cores, bytes, and bytes a second. */
  add(namespace, name, { cores = 0.01, memory = 40 << 20, traffic = 2000, owner = null } = {}) {
    const n = this.pods.length;
    const uid = `0000${(n + 1).toString(16).padStart(4, '0')}-1111-2222-3333-444444444444`;
    const id = (n + 1).toString(16).padStart(64, 'c');
    const pod = { namespace, name, uid, id, cores, memory, traffic, owner, restarts: 0, waiting: '', ready: true, used: 3 + n, bytes: 1000, pid: 500 + n };
    pod.slice = join(this.dir, 'cgroup/kubepods.slice', `kubepods-pod${uid.replaceAll('-', '_')}.slice`);
    pod.scope = join(pod.slice, `cri-containerd-${id}.scope`);
    pod.log = join(this.dir, 'pods', `${namespace}_${name}_${uid}`, 'app', '0.log');
    mkdirSync(pod.scope, { recursive: true });
    mkdirSync(join(pod.log, '..'), { recursive: true });
    mkdirSync(join(this.dir, 'proc', String(pod.pid), 'net'), { recursive: true });
    writeFileSync(pod.log, '');
    this.pods.push(pod);
    return pod;
  }

  /** A line in the pod's log, now. */
  write(pod, line) {
    appendFileSync(pod.log, `${new Date().toISOString().replace('Z', '000000Z')} stdout F ${line}\n`);
  }

  /** Lets so many seconds of work be done. */
  step(seconds) {
    const put = (path, text) => writeFileSync(path, text);
    for (const pod of this.pods) {
      pod.used += pod.cores * seconds;
      pod.bytes += pod.traffic * seconds;
      this.cpu += pod.cores * seconds;
      const usage = Math.round(pod.used * 1e6);
      for (const dir of [pod.slice, pod.scope]) {
        put(join(dir, 'cpu.stat'), `usage_usec ${usage}\nuser_usec ${usage}\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n`);
        put(join(dir, 'memory.current'), `${pod.memory}\n`);
        put(join(dir, 'memory.stat'), `anon ${pod.memory}\nfile 0\ninactive_file 0\nactive_file 0\n`);
        put(join(dir, 'cgroup.procs'), dir === pod.scope ? `${pod.pid}\n` : '');
      }
      this.network(String(pod.pid), pod.bytes);
    }
    const bytes = this.pods.reduce((sum, pod) => sum + pod.bytes, 0);
    const root = join(this.dir, 'cgroup');
    mkdirSync(join(this.dir, 'proc/1/net'), { recursive: true });
    put(join(root, 'cgroup.controllers'), 'cpu io memory pids\n');
    this.network('1', bytes);
    const line = (cpu) => `${cpu} ${Math.round((1000 + this.cpu / 4) * 100)} 0 100 9000000 0 0 0 0 0 0\n`;
    put(join(this.dir, 'proc/stat'), `${line('cpu ')}${[0, 1, 2, 3].map((cpu) => line(`cpu${cpu}`)).join('')}ctxt 1\nbtime ${Math.floor(Date.now() / 1000) - 400_000}\nprocesses 1\n`);
    put(join(this.dir, 'proc/loadavg'), '0.42 0.36 0.30 2/311 4242\n');
    put(join(this.dir, 'proc/meminfo'), 'MemTotal:       16384000 kB\nMemFree:         8192000 kB\nMemAvailable:   11288000 kB\n');
  }

  network(pid, bytes) {
    const whole = Math.round(bytes);
    writeFileSync(join(this.dir, 'proc', pid, 'net/dev'),
      `Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n  eth0: ${whole} 10 0 0 0 0 0 0 ${Math.round(whole / 3)} 10 0 0 0 0 0 0\n`);
  }

  podList() {
    const items = this.pods.map((pod) => {
      const state = pod.waiting ? { waiting: { reason: pod.waiting } } : { running: { startedAt: STARTED } };
      const owner = pod.owner && { apiVersion: 'apps/v1', kind: pod.owner[0], name: pod.owner[1], uid: 'u', controller: true };
      return {
        metadata: { name: pod.name, namespace: pod.namespace, uid: pod.uid, creationTimestamp: STARTED, annotations: { 'kubernetes.io/config.source': 'api' }, ownerReferences: owner ? [owner] : [] },
        spec: { nodeName: this.name, containers: [{ name: 'app', image: 'registry.example/app:1', resources: { limits: { cpu: '2', memory: '512Mi' } } }] },
        status: {
          phase: 'Running', startTime: STARTED, podIP: '10.1.1.1', conditions: [{ type: 'Ready', status: pod.ready ? 'True' : 'False' }],
          containerStatuses: [{ name: 'app', image: 'registry.example/app:1', containerID: `containerd://${pod.id}`, ready: pod.ready, restartCount: pod.restarts, state, lastState: pod.restarts ? { terminated: { reason: 'OOMKilled', exitCode: 137 } } : {} }],
        },
      };
    });
    return JSON.stringify({ kind: 'PodList', apiVersion: 'v1', metadata: {}, items });
  }

  async start() {
    this.step(0);
    this.kubelet = createServer((request, response) => {
      response.setHeader('content-type', 'application/json');
      response.end(request.url.startsWith('/pods') ? this.podList() : 'ok');
    });
    await new Promise((done) => this.kubelet.listen(0, '127.0.0.1', done));
    const config = join(this.dir, 'agent.yaml');
    writeFileSync(config, `cluster: prod
node: {name: ${this.name}}
host: {root: ${this.dir}, proc: ${this.dir}/proc, cgroup: ${this.dir}/cgroup, pod_logs: ${this.dir}/pods}
state_dir: ${this.dir}/state
listen: 127.0.0.1:0
kubelet: {url: "http://127.0.0.1:${this.kubelet.address().port}", interval: 1s}
metrics: {interval: 1s}
export: {endpoint: "http://127.0.0.1:${this.collector}", batch: {age: 200ms}}
`);
    const log = openSync(join(this.dir, 'log'), 'a');
    this.process = spawn(this.agent, ['--config', config], { stdio: ['ignore', log, log] });
    let last = Date.now();
    this.timer = setInterval(() => {
      const now = Date.now();
      this.step((now - last) / 1000);
      last = now;
    }, 250);
  }

  stop() {
    clearInterval(this.timer);
    this.process?.kill();
    this.kubelet?.close();
  }
}
