/** The proxies of the guide, with the real programs: pages and backends reach PushFlo through TLS. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { get } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { PUBLISH_KEY, PushFlo, SECRET_KEY } from '../e2e/pushflo';
import { Project } from './project';
import { OPERATING, snippet } from './snippets';

let project: Project;
let pushflo: PushFlo;
let proxy: ChildProcess | undefined;
const certificate = () => join(project.folder, 'cert.pem');
const key = () => join(project.folder, 'key.pem');

beforeAll(async () => {
  project = new Project();
  // The folder of the guide gives way to the test's.
  pushflo = await PushFlo.start(snippet(OPERATING, 'toml', '[proxy]'));
  const subject = ['-subj', '/CN=push.example.com', '-addext', 'subjectAltName=IP:127.0.0.1'];
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      key(),
      '-out',
      certificate(),
      ...subject,
    ],
    { stdio: 'pipe' },
  );
  project.write('through.mjs', THROUGH);
});
afterEach(async () => {
  if (!proxy || proxy.exitCode !== null) return;
  const ending = once(proxy, 'exit');
  proxy.kill('SIGTERM');
  await ending;
});
afterAll(async () => {
  await pushflo.stop();
  project.remove();
});

/** What a page and a backend do, with a certificate that they check. */
const THROUGH = `
  import { PushFloClient } from '@pushflodev/sdk';
  import { PushFloServer } from '@pushflodev/sdk/server';
  import WebSocket from 'ws';
  const [baseUrl, publishKey, secretKey] = process.argv.slice(2);
  const backend = new PushFloServer({ baseUrl, secretKey, retryAttempts: 8 });
  // The proxy may just have started: this waits for it.
  await backend.getMessageHistory('proxied');
  const client = new PushFloClient({ baseUrl, publishKey, webSocket: WebSocket });
  const seen = [];
  const all = new Promise((resolve) => {
    const onSubscribed = async () => {
      const items = Array.from({ length: 30 }, (_, n) => ({ channel: 'proxied', data: { n, pad: 'x'.repeat(30_000) } }));
      await backend.publishBatch(items);
    };
    client.subscribe('proxied', { onSubscribed, onMessage: ({ data }) => seen.push(data.n) === 30 && resolve() });
  });
  client.connect();
  await all;
  client.destroy();
  const metrics = await fetch(baseUrl + '/metrics');
  const health = await fetch(baseUrl + '/health');
  const { endpoint } = await backend.createToken();
  console.log(JSON.stringify({ seen, metrics: metrics.status, health: health.status, endpoint }));`;

async function expectTraffic(url: string): Promise<void> {
  // Certificates are named at the start of a process.
  const through = spawn(process.execPath, ['through.mjs', url, PUBLISH_KEY, SECRET_KEY], {
    cwd: project.folder,
    env: { ...process.env, NODE_EXTRA_CA_CERTS: certificate() },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const part of through.stdout) text += part;
  expect(JSON.parse(text)).toEqual({
    seen: Array.from({ length: 30 }, (_, n) => n),
    metrics: 404,
    health: 200,
    endpoint: expect.stringMatching(/^wss:/),
  });
}

/** The status of a call with a wrong key, from an address of this machine. */
function wrongKey(url: string, localAddress: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const headers = { Authorization: 'Bearer sec_00000000000000000000' };
    const options = { localAddress, headers, ca: readFileSync(certificate()), agent: false } as const;
    get(`${url}/api/v1/channels`, options, (answer) => resolve(answer.resume().statusCode)).on(
      'error',
      reject,
    );
  });
}

/** Who tries keys is held back, and nobody else: the server is told who is behind the proxy. */
async function expectAddresses(url: string): Promise<void> {
  const guesses = await Promise.all(Array.from({ length: 40 }, () => wrongKey(url, '127.0.0.2')));
  expect(guesses).toContain(429);
  expect(await wrongKey(url, '127.0.0.1')).toBe(401);
}

/** A WebSocket is not to be had while the server is away, and the proxy has something to complain of. */
async function expectFailures(url: string): Promise<void> {
  await pushflo.drain();
  const options = { ca: readFileSync(certificate()), agent: false } as const;
  const status = await new Promise((resolve, reject) => {
    const handshake = get(`${url}/ws?token=${SECRET_KEY}`, options, (answer) =>
      resolve(answer.resume().statusCode),
    );
    handshake.on('error', reject);
  });
  expect(status).toBe(502);
  await pushflo.start();
}

/** Who may read logs is not to learn keys from them. */
function expectNoKeys(log: string): void {
  for (const key of [PUBLISH_KEY, SECRET_KEY]) expect(log).not.toContain(key);
}

/** Replaces what must be there to be replaced. */
function replaced(text: string, pairs: [string | RegExp, string][]): string {
  return pairs.reduce((before, [from, to]) => {
    const after = before.replace(from, to);
    if (after === before) throw new Error(`the snippet has no ${from}`);
    return after;
  }, text);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

it('nginx', async () => {
  const port = await freePort();
  const site = replaced(snippet(OPERATING, 'nginx', 'proxy_pass'), [
    ['/var/log/nginx/pushflo.log', 'logs/access.log'],
    ['/var/log/nginx/pushflo-error.log', 'logs/error.log'],
    ['listen 443 ssl', `listen 127.0.0.1:${port} ssl`],
    [/ssl_certificate .*;/, `ssl_certificate ${certificate()};`],
    [/ssl_certificate_key .*;/, `ssl_certificate_key ${key()};`],
    ['http://127.0.0.1:7070', pushflo.url],
  ]);
  mkdirSync(join(project.folder, 'logs'), { recursive: true });
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path temp_${name};`,
  );
  // Its workers would become a user who may not write here.
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  project.write(
    'nginx.conf',
    `${user} daemon off; pid nginx.pid; error_log logs/error.log; events {} http { ${folders.join(' ')}\n${site} }`,
  );
  const args = ['-p', project.folder, '-c', 'nginx.conf'];
  execFileSync('nginx', ['-t', ...args], { stdio: 'pipe' });
  proxy = spawn('nginx', args, { stdio: 'ignore' });
  await expectTraffic(`https://127.0.0.1:${port}`);
  await expectAddresses(`https://127.0.0.1:${port}`);
  const log = (name: string) => readFileSync(join(project.folder, 'logs', name), 'utf8');
  expect(log('error.log')).not.toMatch(/\[(warn|error|crit)\]/);
  await expectFailures(`https://127.0.0.1:${port}`);
  await vi.waitUntil(
    () => log('access.log').includes('"GET /ws" 101') && log('access.log').includes('" 502'),
  );
  expectNoKeys(log('access.log') + log('error.log'));
});

it('Caddy', async () => {
  const port = await freePort();
  const site = replaced(snippet(OPERATING, 'caddyfile', 'reverse_proxy'), [
    ['{\n', '{\n  admin off\n  auto_https disable_redirects\n'],
    ['push.example.com {', `https://127.0.0.1:${port} {\n  tls ${certificate()} ${key()}`],
    ['127.0.0.1:7070', pushflo.url.replace('http://', '')],
  ]);
  project.write('Caddyfile', site);
  const env = { ...process.env, XDG_DATA_HOME: project.folder, XDG_CONFIG_HOME: project.folder };
  proxy = spawn('caddy', ['run', '--config', 'Caddyfile', '--adapter', 'caddyfile'], {
    cwd: project.folder,
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  proxy.stderr!.setEncoding('utf8').on('data', (part) => (log += part));
  await expectTraffic(`https://127.0.0.1:${port}`);
  await expectAddresses(`https://127.0.0.1:${port}`);
  await expectFailures(`https://127.0.0.1:${port}`);
  await vi.waitUntil(() => log.includes('"uri":"/ws?"'));
  expectNoKeys(log);
});
