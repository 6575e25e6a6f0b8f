import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE, Project } from './project';

/** What a page loads of this package: 8 KB. */
const PAGE_BYTES_MAX = 8_192;
const LISTENING = `
  import { PushFloClient } from '@pushflodev/sdk';
  new PushFloClient({ publishKey: 'pub_1' }).subscribe('news', { onMessage: console.log });
`;

let project: Project;
beforeAll(() => {
  project = new Project();
});
afterAll(() => project.remove());

/** Each entry point, with something it must have. */
const ENTRIES = [
  ['@pushflodev/sdk', 'PushFloClient'],
  ['@pushflodev/sdk/server', 'PushFloServer'],
  ['@pushflodev/sdk/react', 'useChannel'],
] as const;

describe('installed into an empty project', () => {
  it.each(ENTRIES)('%s is imported and required', (entry, name) => {
    project.write('esm.mjs', `import { ${name} } from '${entry}'; console.log(typeof ${name});`);
    project.write('cjs.cjs', `const { ${name} } = require('${entry}'); console.log(typeof ${name});`);
    expect([project.node('esm.mjs'), project.node('cjs.cjs')]).toEqual(['function\n', 'function\n']);
  });

  it('has one class of error for all entry points', () => {
    const program = `
      new PushFloServer({ secretKey: 'sec_1' }).getChannel('a b').catch((error) => console.log(error instanceof PushFloError));`;
    const names = ['PushFloError', 'PushFloServer'];
    const entries = ['@pushflodev/sdk', '@pushflodev/sdk/server'];
    project.write(
      'one.mjs',
      names.map((name, at) => `import { ${name} } from '${entries[at]}';`).join('\n') + program,
    );
    project.write(
      'one.cjs',
      names.map((name, at) => `const { ${name} } = require('${entries[at]}');`).join('\n') + program,
    );
    expect([project.node('one.mjs'), project.node('one.cjs')]).toEqual(['true\n', 'true\n']);
  });

  it('has types for all of them, for modules of both kinds and for bundlers', () => {
    const program = `
      import { PushFloClient, type Message } from '@pushflodev/sdk';
      import { PushFloServer, type PublishResult } from '@pushflodev/sdk/server';
      import { useChannel } from '@pushflodev/sdk/react';
      export const client = new PushFloClient({ publishKey: 'pub_1' });
      client.subscribe<{ text: string }>('a', { onMessage: (message: Message<{ text: string }>) => message.content.text.length });
      export const result: Promise<PublishResult> = new PushFloServer({ secretKey: 'sec_1' }).publish('a', { any: ['json'] });
      export const hook: (channel: string) => { messages: Message[] } = useChannel;
      // @ts-expect-error: a channel's name is text
      client.subscribe(5);`;
    project.write('types/module.mts', program);
    project.write('types/script.cts', program);
    project.checkTypes('--module', 'nodenext', 'types/module.mts', 'types/script.cts');
    project.checkBundledTypes('types/module.mts');
  });

  it('is what publint and arethetypeswrong want', () => {
    expect(project.tool('publint', 'run', project.tarball, '--strict')).toContain('All good!');
    expect(project.tool('attw', project.tarball)).toContain('No problems found');
  });

  it('has no dependencies, and only what is needed', () => {
    const manifest = JSON.parse(
      readFileSync(join(project.folder, 'node_modules/@pushflodev/sdk/package.json'), 'utf8'),
    );
    expect(manifest.dependencies).toBeUndefined();
    expect(manifest.files).toEqual(['dist', 'LICENSE-*']);
  });
});

describe('in a browser', () => {
  /** What a bundler makes of a program, for browsers of the last three years. */
  async function bundled(program: string): Promise<string> {
    const { outputFiles } = await build({
      stdin: { contents: program, resolveDir: project.folder },
      bundle: true,
      minify: true,
      format: 'esm',
      target: ['chrome119', 'firefox119', 'safari17'],
      write: false,
    });
    return outputFiles[0]!.text;
  }

  it.each([
    ['an app that listens', () => bundled(LISTENING)],
    ['the file for a script element', () => readFileSync(join(PACKAGE, 'dist/pushflo.js'))],
  ])('%s takes less than 8 KB, compressed', async (what, content) => {
    const bytes = gzipSync(await content(), { level: 9 }).length;
    console.log(`${what}: ${bytes} bytes compressed`);
    expect(bytes).toBeLessThan(PAGE_BYTES_MAX);
  });

  it('leaves out what is not used', async () => {
    const slugs = await bundled(
      `import { isValidChannelSlug } from '@pushflodev/sdk'; console.log(isValidChannelSlug('a'))`,
    );
    expect(slugs).not.toContain('WebSocket');
    expect(slugs.length).toBeLessThan(3_000);
  });

  it('has nothing of Node', async () => {
    expect(await bundled(`export * from '@pushflodev/sdk'`)).not.toMatch(/node:|require\(/);
  });
});
