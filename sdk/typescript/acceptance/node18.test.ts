/** The oldest Node that is supported: without a WebSocket and without `crypto` among its globals. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PUBLISH_KEY, PushFlo, SECRET_KEY } from '../e2e/pushflo';
import { PACKAGE, Project } from './project';

const FOLDER = join(PACKAGE, '../../target/sdk/node18');
const NAME = `node-linux-${process.arch}`;

let project: Project;
let pushflo: PushFlo;
beforeAll(async () => {
  mkdirSync(FOLDER, { recursive: true });
  const quiet = ['--no-audit', '--no-fund', '--no-save', '--ignore-scripts', '--silent'];
  execFileSync('npm', ['install', '--prefix', FOLDER, ...quiet, `${NAME}@18.20.8`]);
  project = new Project();
  pushflo = await PushFlo.start();
});
afterAll(async () => {
  project.remove();
  await pushflo.stop();
});

it('connects, signs, publishes and gets the message', () => {
  project.write(
    'old.cjs',
    `const { PushFloClient } = require('@pushflodev/sdk');
    const { PushFloServer } = require('@pushflodev/sdk/server');
    const [baseUrl, publishKey, secretKey] = process.argv.slice(2);
    const backend = new PushFloServer({ baseUrl, secretKey });
    const main = async () => {
      const why = await new Promise((resolve) => { try { new PushFloClient({ publishKey }).connect(); } catch (error) { resolve(error.message); } });
      const token = await backend.signToken({ clientId: 'old' });
      const client = new PushFloClient({ baseUrl, publishKey, webSocket: require('ws') });
      const message = new Promise((resolve) => {
        client.subscribe('old', { onSubscribed: () => backend.publish('old', 18), onMessage: resolve });
      });
      await client.connect();
      const { data } = await message;
      client.destroy();
      console.log(JSON.stringify({ version: process.version, why, parts: token.split('.').length, data }));
    };
    main();`,
  );
  const node = join(FOLDER, 'node_modules', NAME, 'bin/node');
  const output = execFileSync(node, ['old.cjs', pushflo.url, PUBLISH_KEY, SECRET_KEY], {
    cwd: project.folder,
    encoding: 'utf8',
  });
  expect(JSON.parse(output)).toEqual({
    version: 'v18.20.8',
    why: expect.stringContaining('this runtime has no WebSocket'),
    parts: 3,
    data: 18,
  });
});
