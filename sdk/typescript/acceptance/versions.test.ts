/** Other versions of what an app has beside the package: TypeScript from 4.7 on, React 17 and 18. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PUBLISH_KEY, PushFlo } from '../e2e/pushflo';
import { PACKAGE, Project } from './project';

/** Installs packages beside each other, once. */
function installed(...packages: string[]): string {
  const folder = join(PACKAGE, '../../target/sdk', packages.join('_').replaceAll(/[@/]/g, '-'));
  mkdirSync(folder, { recursive: true });
  const quiet = ['--no-audit', '--no-fund', '--no-save', '--ignore-scripts', '--silent'];
  execFileSync('npm', ['install', '--prefix', folder, ...quiet, ...packages]);
  return join(folder, 'node_modules');
}

const projects: Project[] = [];
/** A project with those packages. */
function projectWith(packages: string): Project {
  const made = new Project();
  projects.push(made);
  const names = readdirSync(packages).filter((name) => !name.startsWith('.'));
  for (const name of names.flatMap((name) => (name.startsWith('@') ? scoped(packages, name) : name)))
    made.link(name, packages);
  return made;
}
function scoped(packages: string, scope: string): string[] {
  return readdirSync(join(packages, scope)).map((name) => `${scope}/${name}`);
}
afterAll(() => projects.forEach((made) => made.remove()));

describe('types', () => {
  it.each([
    ['4.7', '17', '16', 'node'],
    ['5.0', '18', '18', 'bundler'],
    ['6', '19', '20', 'bundler'],
    ['latest', '19', 'latest', 'bundler'],
  ])('of an app are good in TypeScript %s with those of React %s', (typescript, react, node, resolution) => {
    const packages = installed(`typescript@${typescript}`, `@types/react@${react}`, `@types/node@${node}`);
    const made = projectWith(packages);
    const files = ['page.ts', 'backend.ts', 'components.tsx'];
    for (const file of files)
      made.write(file, readFileSync(join(PACKAGE, 'acceptance/hosted', file), 'utf8'));
    const strict = '--noEmit --strict --jsx react-jsx --target es2022 --lib es2022,dom --types node';
    const modules = ['--module', 'esnext', '--moduleResolution', resolution];
    made.node(join(packages, 'typescript/bin/tsc'), ...strict.split(' '), ...modules, ...files);
  });
});

describe('React', () => {
  let pushflo: PushFlo;
  beforeAll(async () => {
    pushflo = await PushFlo.start();
  });
  afterAll(() => pushflo.stop());

  it.each(['17', '18'])(
    '%s shows what is published, and nothing is left when it is gone',
    async (version) => {
      const made = projectWith(installed(`react@${version}`, `react-dom@${version}`));
      const mount =
        version === '17'
          ? `import { render, unmountComponentAtNode } from 'react-dom';
           const show = (element) => render(element, root), leave = () => unmountComponentAtNode(root);`
          : `import { createRoot } from 'react-dom/client';
           const at = createRoot(root), show = (element) => at.render(element), leave = () => at.unmount();`;
      made.write(
        'app.jsx',
        `import { createElement as h, StrictMode } from 'react';
      import { PushFloProvider, useChannel } from '@pushflodev/sdk/react';
      const root = document.getElementById('root');
      ${mount}
      function News() {
        const { messages, isSubscribed } = useChannel('news-${version}');
        return h('p', null, isSubscribed ? 'listening ' : 'waiting ', messages.map(({ content }) => content).join());
      }
      const app = h(PushFloProvider, { publishKey: '${PUBLISH_KEY}', baseUrl: '${pushflo.url}'}, h(News));
      show(h(StrictMode, null, app));
      globalThis.leave = leave;`,
      );
      const { outputFiles } = await build({
        entryPoints: [join(made.folder, 'app.jsx')],
        bundle: true,
        write: false,
        format: 'iife',
        preserveSymlinks: true,
        define: { 'process.env.NODE_ENV': '"development"' },
      });
      const { JSDOM, VirtualConsole } = await import('jsdom');
      const complaints: string[] = [];
      const virtualConsole = new VirtualConsole();
      virtualConsole.on('error', (line) => complaints.push(String(line)));
      virtualConsole.on('jsdomError', (error) => complaints.push(error.message));
      const page = new JSDOM('<div id="root"></div>', {
        runScripts: 'outside-only',
        url: 'http://127.0.0.1',
        virtualConsole,
      });
      page.window.eval(outputFiles[0]!.text);
      const text = () => page.window.document.body.textContent;
      await expect.poll(text).toBe('listening ');
      await pushflo.backend.publish(`news-${version}`, 'Hello');
      await expect.poll(text).toBe('listening Hello');
      expect(await pushflo.metric('pushflo_websocket_connections')).toBe(1);
      (page.window as unknown as { leave(): void }).leave();
      await expect.poll(() => pushflo.metric('pushflo_websocket_connections')).toBe(0);
      expect(complaints).toEqual([]);
      page.window.close();
    },
  );
});
