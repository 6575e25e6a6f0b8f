/** The runtime of edge functions: the web's interfaces and nothing of Node. */
import { EdgeVM } from '@edge-runtime/vm';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PushFlo, SECRET_KEY } from '../e2e/pushflo';
import { Project } from './project';

let project: Project;
let pushflo: PushFlo;
beforeAll(async () => {
  project = new Project();
  pushflo = await PushFlo.start();
});
afterAll(async () => {
  project.remove();
  await pushflo.stop();
});

it('publishes, reads and signs', async () => {
  const { outputFiles } = await build({
    stdin: { contents: `export * from '@pushflodev/sdk/server'`, resolveDir: project.folder },
    bundle: true,
    write: false,
    format: 'iife',
    globalName: 'PushFlo',
  });
  const vm = new EdgeVM();
  expect(vm.evaluate('typeof process')).toBe('undefined');
  vm.evaluate(outputFiles[0]!.text);
  const settings = JSON.stringify({ secretKey: SECRET_KEY, baseUrl: pushflo.url });
  const result = await vm.evaluate(`(async () => {
    const backend = new PushFlo.PushFloServer(${settings});
    const { offset } = await backend.publish({ channel: 'edge', data: { any: 'json' } });
    const { messages } = await backend.getMessageHistory('edge');
    const token = await backend.signToken({ clientId: 'edge' });
    return JSON.stringify({ offset, content: messages[0].content, parts: token.split('.').length });
  })()`);
  expect(JSON.parse(result)).toEqual({ offset: 1, content: { any: 'json' }, parts: 3 });
});
