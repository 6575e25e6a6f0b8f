/** The article's app in Next.js 14 with React 18, and the package as npm installs it. */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from './fixtures';
import { PUBLISH_KEY, SECRET_KEY } from './pushflo';
import { started } from './started';

const PACKAGE = join(import.meta.dirname, '..');
const EXAMPLE = join(PACKAGE, '../examples/nextjs');
const APP = join(PACKAGE, '../../target/sdk/next14');

test('Next.js 14: it builds where nothing is configured, and an order rings the bell', async ({
  page,
  pushflo,
}) => {
  test.setTimeout(300_000);
  const run = promisify(execFile);
  mkdirSync(APP, { recursive: true });
  for (const file of readdirSync(APP).filter((file) => file.endsWith('.tgz'))) rmSync(join(APP, file));
  await run('npm', ['pack', '--pack-destination', APP], { cwd: PACKAGE });
  const [tarball] = readdirSync(APP).filter((file) => file.endsWith('.tgz'));
  for (const folder of ['app', 'components', 'hooks', 'lib'])
    cpSync(join(EXAMPLE, folder), join(APP, folder), { recursive: true });
  const { compilerOptions } = JSON.parse(readFileSync(join(EXAMPLE, 'tsconfig.json'), 'utf8'));
  const options = { ...compilerOptions, target: 'es2022', lib: ['esnext', 'dom'], jsx: 'preserve' };
  writeFileSync(join(APP, 'tsconfig.json'), JSON.stringify({ compilerOptions: options }));
  const manifest = {
    private: true,
    dependencies: {
      '@pushflodev/sdk': `file:${tarball}`,
      '@types/node': '20',
      '@types/react': '18',
      next: '14',
      react: '18',
      'react-dom': '18',
      typescript: '5',
    },
  };
  writeFileSync(join(APP, 'package.json'), JSON.stringify(manifest));
  rmSync(join(APP, 'package-lock.json'), { force: true });
  await run('npm', ['install', '--no-audit', '--no-fund', '--silent'], { cwd: APP });

  const next = join(APP, 'node_modules/.bin/next');
  const unset = { NEXT_TELEMETRY_DISABLED: '1' };
  const { PATH, HOME } = process.env;
  await run(next, ['build'], { cwd: APP, env: { PATH, HOME, NODE_ENV: 'production', ...unset } });

  const env = {
    ...unset,
    NEXT_PUBLIC_PUSHFLO_URL: pushflo.url,
    NEXT_PUBLIC_PUSHFLO_APP_ID: PUBLISH_KEY,
    PUSHFLO_URL: pushflo.url,
    PUSHFLO_API_KEY: SECRET_KEY,
  };
  const { found, stop } = await started(
    next,
    ['dev', '--hostname', '127.0.0.1', '--port', '0'],
    /Local:\s+(http:\S+)/,
    { env, cwd: APP },
  );
  try {
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(error.message));
    await page.goto(found[1]!, { timeout: 120_000 });
    await expect(page.getByTitle('connected')).toBeVisible();
    await expect.poll(() => pushflo.metric('pushflo_subscriptions')).toBe(1);
    await page.getByRole('button', { name: 'Coffee beans' }).click();
    await expect(page.getByLabel('1 unread notifications')).toBeVisible();
    expect(errors).toEqual([]);
    expect(await pushflo.metric('pushflo_websocket_connections')).toBe(1);
  } finally {
    await stop();
  }
});
