/**
 * An app that was written for version 1.0.8 of the hosted service's SDK: its types are good and it does the
 * same, with nothing changed but the address.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import WebSocket from 'ws';
import { MANAGE_KEY, PUBLISH_KEY, PushFlo } from '../e2e/pushflo';
import { backend, failure } from './hosted/backend';
import { connect, open, slugs } from './hosted/page';
import { PushFloServer } from '@pushflodev/sdk/server';
import { PACKAGE, Project } from './project';

let project: Project;
let pushflo: PushFlo;
beforeAll(async () => {
  // Node has had it since version 22.
  globalThis.WebSocket ??= WebSocket as never;
  project = new Project();
  pushflo = await PushFlo.start();
});
afterAll(async () => {
  await pushflo.stop();
  project.remove();
});

it.each([
  ['strict', []],
  ['strict and exact', ['--exactOptionalPropertyTypes']],
])('has types that are %s', (_, options) => {
  const files = ['page.ts', 'backend.ts', 'components.tsx'];
  for (const file of files)
    project.write(file, readFileSync(join(PACKAGE, 'acceptance/hosted', file), 'utf8'));
  project.checkBundledTypes(...options, ...files);
});

it('publishes, reads and manages', async () => {
  expect(await backend(MANAGE_KEY, pushflo.url)).toEqual([
    'order-updates',
    'Updated',
    'order-updates',
    'order.shipped',
    expect.any(String),
    0,
    [[true, 'order-updates', { orderId: '123' }]],
    [1, 1],
    ['order-updates'],
    ['Order Updates', 1],
    true,
  ]);
});

it('connects, listens and leaves', async () => {
  const lines: string[] = [];
  const client = open(PUBLISH_KEY, pushflo.url, (line) => lines.push(line));
  expect(await connect(client)).toBe('connected');
  await expect.poll(() => lines).toContain('subscribed');
  await pushflo.backend.publish('notifications', { title: 'Hello' }, { eventType: 'greeting' });
  await expect.poll(() => lines).toContain('notifications: Hello');
  client.unsubscribe('notifications');
  client.disconnect();
  expect(lines).toEqual([
    'notifications true notifications',
    '1 4 none',
    'Connecting…',
    'Online',
    expect.stringMatching(/^as \S+ at \d+$/),
    'subscribed',
    expect.stringMatching(/^greeting of \d+ at \d+$/),
    'notifications: Hello',
    'unsubscribed',
    expect.stringMatching(/^left: /),
  ]);
  client.destroy();
});

it('is told of failures as before', async () => {
  const nowhere = open(PUBLISH_KEY, 'http://127.0.0.1:9', () => {});
  expect(await connect(nowhere)).toBe('connection: CONNECTION_FAILED true');
  nowhere.destroy();
  const stranger = open('pub_unknown0123456789abc', pushflo.url, () => {});
  expect(await connect(stranger)).toMatch(/^key: /);
  stranger.destroy();
  const server = (secretKey: string, baseUrl = pushflo.url) =>
    new PushFloServer({ secretKey, baseUrl, retryAttempts: 1 });
  expect(await failure(() => server('sec_unknown0123456789abc').publish('a', {}))).toEqual([
    'authentication',
    'UNAUTHORIZED',
    false,
  ]);
  expect(await failure(() => server(MANAGE_KEY).getChannel('nobody'))).toEqual([
    'network',
    'NOT_FOUND',
    404,
    false,
  ]);
  expect(await failure(() => server(MANAGE_KEY).publish('a b', {}))).toEqual([
    'validation',
    'VALIDATION_ERROR',
    'channel',
  ]);
  expect(await failure(() => server(MANAGE_KEY, 'http://127.0.0.1:9').publish('a', {}))).toEqual([
    'network',
    'NETWORK_ERROR',
    undefined,
    true,
  ]);
});

it('makes the same slugs', () => {
  const flaw = { valid: false, error: 'Channel slug must be lowercase', suggestion: 'my-channel' };
  expect(slugs('My Channel')).toEqual([false, 'my-channel', flaw, 1, 64]);
});
