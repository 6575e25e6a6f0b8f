/** What tokens grant, and who is there: over the real server, with clients in Node. */
import { PushFloClient, type ClientOptions } from '@pushflodev/sdk';
import { signToken, type TokenGrant } from '@pushflodev/sdk/server';
import WebSocket from 'ws';
import { expect, test as base } from './fixtures';
import { type PushFlo, SECRET_KEY } from './pushflo';

const test = base.extend<{
  join: (grant: TokenGrant, more?: ClientOptions) => Promise<PushFloClient>;
}>({
  /** Connects a client with a token; it is destroyed at the end. */
  join: async ({ pushflo }, use) => {
    const clients: PushFloClient[] = [];
    await use(async (grant, more) => {
      const getToken = () => signToken(SECRET_KEY, grant);
      const client = new PushFloClient({
        getToken,
        baseUrl: pushflo.url,
        webSocket: WebSocket,
        reconnectDelay: 50,
        ...more,
      });
      clients.push(client);
      await client.connect();
      return client;
    });
    for (const client of clients) client.destroy();
  },
});

/** Allows clients of the app to publish. */
async function allowClientPublish(pushflo: PushFlo): Promise<void> {
  const answer = await fetch(`${pushflo.url}/api/v1/apps/self`, {
    method: 'PATCH',
    headers: { Authorization: `Bearer ${pushflo.manageKey}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ settings: { clientPublish: true } }),
  });
  expect(answer.status).toBe(200);
}

test('a client publishes where its token grants it, and nowhere else', async ({ pushflo, join }) => {
  await allowClientPublish(pushflo);
  const ann = await join({ clientId: 'ann', publish: ['chat-*'] });
  const ben = await join({ clientId: 'ben' });
  const message = new Promise((resolve) =>
    ben.subscribe('chat-1', {
      onMessage: resolve,
      onSubscribed: () => void ann.publish('chat-1', { text: 'Hi' }),
    }),
  );
  expect(await message).toMatchObject({ clientId: 'ann', data: { text: 'Hi' }, offset: 1 });
  await expect(ann.publish({ channel: 'news', data: 1 })).rejects.toMatchObject({ code: 'FORBIDDEN' });
  await expect(ben.publish({ channel: 'chat-1', data: 1 })).rejects.toMatchObject({ code: 'FORBIDDEN' });
});

test('what clients publish while the server is killed is published once', async ({ pushflo, join }) => {
  await allowClientPublish(pushflo);
  const ann = await join({ clientId: 'ann', publish: ['chat'] });
  const count = 200;
  const publishing = (async () => {
    for (let n = 1; n <= count; n++) {
      await ann.publish('chat', n);
      if (n === 50) void pushflo.kill().then(() => pushflo.start());
    }
  })();
  await publishing;
  const contents: number[] = [];
  for (let page = 1; page <= 2; page++) {
    const { messages } = await pushflo.backend.getMessageHistory<number>('chat', { page, pageSize: 100 });
    contents.unshift(...messages.map(({ content }) => content).reverse());
  }
  expect(contents).toEqual(Array.from({ length: count }, (_, n) => n + 1));
});

test('a private channel needs a token that names it', async ({ pushflo, join }) => {
  await pushflo.admin.createChannel({ name: 'Board', slug: 'board', isPrivate: true });
  const [granted, stranger] = [await join({ channels: ['board'] }), await join({})];
  await new Promise((resolve) => granted.subscribe('board', { onSubscribed: () => resolve(undefined) }));
  const error = await new Promise((resolve) => stranger.subscribe('board', { onError: resolve }));
  expect(error).toMatchObject({ code: 'FORBIDDEN', channel: 'board' });
});

test('subscribers see who comes and goes', async ({ pushflo, join }) => {
  await pushflo.admin.createChannel({ name: 'Room', slug: 'room', presence: true });
  const ann = await join({ clientId: 'ann', data: { name: 'Ann' } });
  let there: string[] = [];
  ann.subscribe('room', {
    onPresence: ({ members }) => (there = members.map(({ clientId }) => clientId).sort()),
  });
  await expect.poll(() => there).toEqual(['ann']);
  const ben = await join({ clientId: 'ben' });
  const subscription = ben.subscribe('room');
  await expect.poll(() => there).toEqual(['ann', 'ben']);
  expect(await pushflo.backend.getPresence('room')).toMatchObject({
    subscribers: 2,
    count: 2,
    members: expect.arrayContaining([{ clientId: 'ann', data: { name: 'Ann' } }]),
  });
  subscription.unsubscribe();
  await expect.poll(() => there, { timeout: 30_000 }).toEqual(['ann']);
});
