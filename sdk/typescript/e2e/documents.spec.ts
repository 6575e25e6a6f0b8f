/**
 * The code of the documents, run as it is printed: the introductory article, and the guide for
 * Vercel from a route that publishes to a message on the screen.
 */
import { build, type Plugin } from 'esbuild';
import { Project } from '../acceptance/project';
import { ARTICLE, GUIDE, snippet } from '../acceptance/snippets';
import { expect, test } from './fixtures';
import { PUBLISH_KEY, type PushFlo, SECRET_KEY } from './pushflo';

let project: Project;
test.beforeAll(() => {
  project = new Project('react-dom', 'scheduler');
  project.write(
    'tsconfig.json',
    '{ "compilerOptions": { "jsx": "react-jsx", "paths": { "@/*": ["./*"] } } }',
  );
});
test.afterAll(() => project.remove());

/** Bundles a file of the project as Next.js does for a browser: with the public environment in it. */
async function bundled(file: string, pushflo: PushFlo): Promise<string> {
  const environment = {
    NEXT_PUBLIC_PUSHFLO_APP_ID: PUBLISH_KEY,
    NEXT_PUBLIC_PUSHFLO_URL: pushflo.url,
    NODE_ENV: 'development',
  };
  const define = Object.entries(environment).map(([name, value]) => [
    `process.env.${name}`,
    JSON.stringify(value),
  ]);
  return transformed(file, { define: Object.fromEntries(define) });
}

/** A route of the project, to be called as Next.js would. */
async function route(file: string): Promise<(request: Request) => Promise<Response>> {
  const next: Plugin = {
    name: 'next',
    setup: ({ onResolve, onLoad }) => {
      onResolve({ filter: /^next\/server$/ }, () => ({ path: 'next', namespace: 'next' }));
      onLoad({ filter: /^/, namespace: 'next' }, () => ({
        contents: 'export const NextResponse = Response',
      }));
    },
  };
  const code = await transformed(file, { platform: 'node', plugins: [next] });
  return (await import(`data:text/javascript,${encodeURIComponent(code)}`)).POST;
}

async function transformed(file: string, options: object): Promise<string> {
  const entryPoints = [`${project.folder}/${file}`];
  const { outputFiles } = await build({
    entryPoints,
    bundle: true,
    write: false,
    format: 'esm',
    jsx: 'automatic',
    ...options,
  });
  return outputFiles[0]!.text;
}

const posted = (body: unknown) =>
  new Request('http://app/api', { method: 'POST', body: JSON.stringify(body) });

test('the article: an order rings the bell', async ({ pushflo, site, page }) => {
  project.write('hooks/usePushFlo.ts', snippet(ARTICLE, 'tsx', '// hooks/usePushFlo.ts'));
  project.write(
    'components/NotificationBell.tsx',
    snippet(ARTICLE, 'tsx', '// components/NotificationBell.tsx'),
  );
  project.write('app/api/orders/route.ts', snippet(ARTICLE, 'tsx', '// app/api/orders/route.ts'));
  // What the article leaves to the reader: an icon, and a page with the bell.
  project.write(
    'article.tsx',
    `
    import { StrictMode } from 'react';
    import { createRoot } from 'react-dom/client';
    import { NotificationBell } from '@/components/NotificationBell';
    globalThis.BellIcon = () => <svg />;
    createRoot(document.getElementById('root')).render(<StrictMode><NotificationBell userId="123" /></StrictMode>);`,
  );
  site.programs.set('article.js', await bundled('article.tsx', pushflo));
  const sockets: string[] = [];
  page.on('websocket', (socket) => sockets.push(socket.url()));
  await page.goto(`${site.url}/page.html?article.js`);
  await expect(page.locator('.bg-green-500')).toHaveCount(1);
  // The page is connected before it is subscribed.
  await expect.poll(() => pushflo.metric('pushflo_subscriptions')).toBe(1);

  // And a database, and where PushFlo is.
  process.env.PUSHFLO_API_KEY = SECRET_KEY;
  const fetchAnywhere = globalThis.fetch;
  Object.assign(globalThis, {
    db: { orders: { create: async (order: object) => ({ ...order, id: 'A-1' }) } },
    fetch: (url: string, init: RequestInit) =>
      fetchAnywhere(url.replace('https://api.pushflo.dev', pushflo.url), init),
  });
  const POST = await route('app/api/orders/route.ts');
  expect(await (await POST(posted({ userId: '123' }))).json()).toEqual({ userId: '123', id: 'A-1' });
  await expect(page.locator('.bg-red-500')).toHaveText('1');
  await POST(posted({ userId: '124' }));
  await POST(posted({ userId: '123' }));
  await expect(page.locator('.bg-red-500')).toHaveText('2');
  expect(sockets).toHaveLength(1);
  globalThis.fetch = fetchAnywhere;
});

test('the guide: from a route to a message on the screen', async ({ pushflo, site, page }) => {
  project.write('components/News.tsx', snippet(GUIDE, 'tsx', '// components/News.tsx'));
  project.write('app/api/news/route.ts', snippet(GUIDE, 'ts', '// app/api/news/route.ts'));
  project.write(
    'guide.tsx',
    `
    import { createRoot } from 'react-dom/client';
    import { News } from '@/components/News';
    createRoot(document.getElementById('root')).render(<News />);`,
  );
  await pushflo.backend.publish('news', { text: 'Before' });
  site.programs.set('guide.js', await bundled('guide.tsx', pushflo));
  await page.goto(`${site.url}/page.html?guide.js`);
  await expect(page.locator('li')).toHaveText(['Before']);

  Object.assign(process.env, { PUSHFLO_SECRET_KEY: SECRET_KEY, NEXT_PUBLIC_PUSHFLO_URL: pushflo.url });
  const POST = await route('app/api/news/route.ts');
  expect(await (await POST(posted({ text: 'Hello' }))).json()).toEqual({ delivered: 1 });
  await expect(page.locator('li')).toHaveText(['Before', 'Hello']);
});
