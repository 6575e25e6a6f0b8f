import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { transform } from 'esbuild';
import { PushFloClient } from '@pushflodev/sdk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { PUBLISH_KEY, PushFlo, SECRET_KEY } from '../e2e/pushflo';
import { PACKAGE, Project } from './project';
import { ARTICLE, GUIDE, SDK_README, snippet, snippets } from './snippets';

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

/** A snippet with what a reader would fill in. */
function filledIn(code: string): string {
  return code
    .replaceAll('https://push.example.com', pushflo.url)
    .replaceAll('pub_…', PUBLISH_KEY)
    .replaceAll('sec_…', SECRET_KEY);
}

describe('the guide and the README', () => {
  it('have code that the type checker takes', () => {
    for (const document of [GUIDE, SDK_README]) {
      snippets(document, 'tsx?').forEach((code, index) =>
        project.write(`typed/${document}/${index}.tsx`, code),
      );
    }
    const files = [GUIDE, SDK_README].flatMap((document) =>
      snippets(document, 'tsx?').map((_, index) => `typed/${document}/${index}.tsx`),
    );
    expect(files.length).toBeGreaterThan(4);
    // Each is a module of its own, as a bundler would see it.
    project.checkBundledTypes('--skipLibCheck', '--noUnusedLocals', '--moduleDetection', 'force', ...files);
  });

  it('show a page and a backend that talk to each other', async () => {
    project.write('page.mjs', filledIn(snippet(SDK_README, 'ts', 'client.subscribe(')));
    project.write('backend.mjs', filledIn(snippet(SDK_README, 'ts', 'publishBatch')));
    // Node has a WebSocket of its own from 22 on.
    project.write('websocket.mjs', `import WebSocket from 'ws'; globalThis.WebSocket ??= WebSocket;`);
    const page = spawn(process.execPath, ['--import', './websocket.mjs', 'page.mjs'], {
      cwd: project.folder,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await expect.poll(() => pushflo.metric('pushflo_subscriptions'), { timeout: 20_000 }).toBe(1);
      expect(project.node('backend.mjs')).toBe("[ 'Hello', 'Hello', 'Hello' ]\n");
      const lines: string[] = [];
      for await (const line of createInterface(page.stdout)) if (lines.push(line) === 3) break;
      expect(lines).toEqual([
        "headline { text: 'Hello' }",
        "headline { text: 'Hello' }",
        "message { text: 'Hello' }",
      ]);
    } finally {
      page.kill();
    }
  });

  it('show a token that the server of the same keys would know', () => {
    project.write('token.mjs', filledIn(snippet(SDK_README, 'ts', 'signToken')));
    const [header, claims] = project
      .node('token.mjs')
      .split('.')
      .map((part) => Buffer.from(part, 'base64url').toString());
    expect(JSON.parse(header!)).toMatchObject({
      alg: 'HS256',
      kid: expect.stringMatching(/^key_[0-9a-f]{16}$/),
    });
    expect(JSON.parse(claims!)).toMatchObject({
      aud: 'pushflo',
      sub: 'user-123',
      channels: ['user-123', 'news-*'],
      publish: ['chat'],
    });
  });
});

describe('the article', () => {
  it.each([
    ['dashboard-metrics', { activeUsers: 1234, revenue: 56789 }, 'update'],
    ['chat-7', { sender: 'u1', text: 'Hi' }, 'message'],
    ['doc-9', { userId: 'u1', cursor: { x: 100, y: 200 } }, 'presence'],
    ['order-5', { status: 'shipped', trackingNumber: 'ABC123' }, 'status-update'],
  ])('publishes to %s', async (channel, content, eventType) => {
    const code = snippet(
      ARTICLE,
      'ts',
      channel === 'dashboard-metrics' ? channel : `\`${channel.split('-')[0]}-$`,
    );
    const given = {
      pushflo: pushflo.backend,
      roomId: 7,
      userId: 'u1',
      messageText: 'Hi',
      documentId: 9,
      orderId: 5,
    };
    await run(code, given);
    const { messages } = await pushflo.backend.getMessageHistory(channel);
    expect(messages).toEqual([expect.objectContaining({ channel, content, eventType })]);
  });

  it('has the hook that the example has', () => {
    const hook = readFileSync(join(PACKAGE, '../examples/nextjs/hooks/usePushFlo.ts'), 'utf8');
    expect(hook).toBe(snippet(ARTICLE, 'tsx', '// hooks/usePushFlo.ts'));
  });

  it('replays what was missed', async () => {
    process.env.NEXT_PUBLIC_PUSHFLO_APP_ID = PUBLISH_KEY;
    const code = `${snippet(ARTICLE, 'ts', 'replayOnReconnect')}; return client;`;
    class Client extends PushFloClient {
      constructor(options: ConstructorParameters<typeof PushFloClient>[0]) {
        super({ ...options, baseUrl: pushflo.url, webSocket: WebSocket, reconnectDelay: 10 });
      }
    }
    const client = (await run(code, { PushFloClient: Client })) as PushFloClient;
    const seen: number[] = [];
    const subscribed = new Promise((resolve) =>
      client.subscribe('missed', {
        onSubscribed: () => resolve(undefined),
        onMessage: ({ data }) => seen.push(data),
      }),
    );
    await client.connect();
    await subscribed;
    await pushflo.backend.publish('missed', 1);
    await pushflo.kill();
    await pushflo.start();
    await pushflo.backend.publish('missed', 2);
    await expect.poll(() => seen, { timeout: 20_000 }).toEqual([1, 2]);
    client.destroy();
  });
});

/** Runs TypeScript as the body of a function that has these names. */
async function run(code: string, names: Record<string, unknown>): Promise<unknown> {
  const body = await transform(`async function body() { ${code} }`, { loader: 'ts' });
  return new Function(...Object.keys(names), `${body.code}; return body();`)(...Object.values(names));
}
