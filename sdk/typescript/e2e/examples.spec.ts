/** The examples, started with their one command and used as a person would. */
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from './fixtures';
import { program, PUBLISH_KEY } from './pushflo';
import { type Started, started } from './started';

const ROOT = join(import.meta.dirname, '../../..');
/** One after the other: both work in the example's folder. */
test.describe.configure({ mode: 'serial' });
/** Pictures of what was seen, for people to look at. */
const PICTURES = join(ROOT, 'target/sdk/pictures');
mkdirSync(PICTURES, { recursive: true });

/** Runs an example with its one command, until its output matches. */
function run(example: string, until: RegExp): Promise<Started> {
  const env = { PUSHFLO_BIN: program(), PUSHFLO_URL: '', PORT: '0' };
  return started(join(ROOT, 'sdk/examples/run'), [example], until, { env });
}

test('Next.js: an order rings the bell, in every tab', async ({ page, context }) => {
  test.setTimeout(180_000);
  const sockets: string[] = [];
  page.on('websocket', (socket) => socket.url().includes('token=') && sockets.push(socket.url()));
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (line) => line.type() === 'error' && errors.push(line.text()));

  const { found, stop } = await run('nextjs', /Local:\s+(http:\S+)/);
  try {
    await page.goto(found[1]!, { timeout: 120_000 });
    await expect(page.getByTitle('connected')).toBeVisible();
    const other = await context.newPage();
    await other.goto(found[1]!);
    await expect(other.getByTitle('connected')).toBeVisible();
    await page.screenshot({ path: join(PICTURES, 'nextjs-connected.png') });

    await page.getByRole('button', { name: 'Coffee beans' }).click();
    await expect(page.locator('.orders')).toContainText('A-1001: Coffee beans');
    await page.getByRole('button', { name: 'Paper filters' }).click();
    for (const tab of [page, other]) await expect(tab.getByLabel('2 unread notifications')).toBeVisible();
    await page.getByRole('button', { name: 'Ship A-1001' }).click();
    for (const tab of [page, other]) await expect(tab.getByLabel('3 unread notifications')).toBeVisible();
    await page.screenshot({ path: join(PICTURES, 'nextjs-unread.png') });

    await page.getByLabel('3 unread notifications').click();
    await expect(page.locator('.notifications li')).toHaveText([
      /Your order is on its way! Order A-1001/,
      /Your order has been placed! Order A-1002/,
      /Order A-1001/,
    ]);
    await page.screenshot({ path: join(PICTURES, 'nextjs-open.png') });
    await page.getByText('Mark all as read').click();
    await expect(page.getByLabel('0 unread notifications')).toBeVisible();
    await page.screenshot({ path: join(PICTURES, 'nextjs-read.png') });
    await other.screenshot({ path: join(PICTURES, 'nextjs-other-tab.png') });

    // Development is in strict mode, which runs the article's hook twice.
    expect(sockets).toHaveLength(1);
    expect(errors).toEqual([]);
  } finally {
    await stop();
  }
});

test('Next.js: hot reload of the hook leaves one connection', async ({ page, pushflo }) => {
  test.setTimeout(180_000);
  // A copy, because its files are changed.
  const copy = join(ROOT, 'target/sdk/hot-reload');
  rmSync(copy, { recursive: true, force: true });
  const example = join(ROOT, 'sdk/examples/nextjs');
  cpSync(example, copy, { recursive: true, filter: (path) => !/\/(node_modules|\.next)$/.test(path) });
  // Next.js wants its packages inside of its folder; hard links make that cheap.
  execFileSync('cp', ['-al', join(example, 'node_modules'), copy]);
  const hook = join(copy, 'hooks/usePushFlo.ts');
  const code = readFileSync(hook, 'utf8');
  const { found, stop } = await started(
    join(copy, 'node_modules/.bin/next'),
    ['dev', '--hostname', '127.0.0.1'],
    /Local:\s+(http:\S+)/,
    {
      cwd: copy,
      env: {
        PORT: '0',
        NEXT_TELEMETRY_DISABLED: '1',
        NEXT_PUBLIC_PUSHFLO_URL: pushflo.url,
        NEXT_PUBLIC_PUSHFLO_APP_ID: PUBLISH_KEY,
      },
    },
  );
  try {
    const sockets: string[] = [];
    page.on(
      'websocket',
      (socket) => socket.url().startsWith(pushflo.url.replace('http', 'ws')) && sockets.push(socket.url()),
    );
    let loads = 0;
    page.on('load', () => loads++);
    const watching = page.waitForEvent('console', (line) => line.text().includes('[HMR] connected'));
    await page.goto(found[1]!, { timeout: 120_000 });
    await watching;
    await expect(page.getByTitle('connected')).toBeVisible();
    let edits = 0;
    for (let reloads = 1; reloads <= 2; reloads++) {
      // With one state more, React mounts the component anew, in a page that is not loaded anew. A
      // change that comes before the development server watches the file is not seen: another follows.
      await expect(async () => {
        writeFileSync(hook, code.replace('useEffect(', `${'useState(0);'.repeat(++edits)} useEffect(`));
        await expect.poll(() => sockets.length, { timeout: 3_000 }).toBeGreaterThan(reloads);
      }).toPass({ timeout: 60_000 });
      await expect.poll(() => pushflo.metric('pushflo_websocket_connections')).toBe(1);
    }
    expect(loads).toBe(1);
    for (const n of [1, 2, 3]) await pushflo.backend.publish('user-123', { n });
    await expect(page.getByLabel('3 unread notifications')).toBeVisible();
  } finally {
    await stop();
  }
});

test('Next.js: the app builds for production, and only what may be public is in its pages', async () => {
  test.setTimeout(180_000);
  const folder = join(ROOT, 'sdk/examples/nextjs');
  const environment = {
    NEXT_PUBLIC_PUSHFLO_URL: 'https://push.test',
    NEXT_PUBLIC_PUSHFLO_APP_ID: 'pub_public',
    PUSHFLO_API_KEY: 'sec_secret',
  };
  await promisify(execFile)('node_modules/.bin/next', ['build'], {
    cwd: folder,
    env: { ...process.env, ...environment, NEXT_TELEMETRY_DISABLED: '1' },
  });
  const chunks = join(folder, '.next/static');
  const names = readdirSync(chunks, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.js'),
  );
  const scripts = names.map((name) => readFileSync(join(chunks, name), 'utf8')).join('\n');
  expect(scripts).toContain('https://push.test');
  expect(scripts).toContain('pub_public');
  expect(scripts).not.toContain('sec_secret');
});

test('plain HTML: a page without a build step shows what is published with curl', async ({ page }) => {
  const { found, stop } = await run(
    'html',
    /(http:\/\/\S+\/#\S+)[^]*curl (\S+) [^]*Bearer (\S+)'[^]*-d '(.*)'/,
  );
  try {
    const [, address, api, key, body] = found;
    await page.goto(address!);
    await expect(page.locator('#state')).toHaveText('connected');
    const answer = await fetch(api!, { method: 'POST', headers: { Authorization: `Bearer ${key}` }, body });
    expect(answer.status).toBe(200);
    await expect(page.locator('#messages li')).toHaveText(['Hello, world']);
    await page.screenshot({ path: join(PICTURES, 'html.png') });
  } finally {
    await stop();
  }
});
