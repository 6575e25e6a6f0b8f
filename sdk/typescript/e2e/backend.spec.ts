/** The backend's calls against the real server. */
import { PushFloServer } from '@pushflodev/sdk/server';
import { expect, test } from './fixtures';
import { SECRET_KEY } from './pushflo';

test('channels are made, listed, changed and deleted', async ({ pushflo: { admin } }) => {
  const made = await admin.createChannel({ name: 'Orders', slug: 'orders', metadata: { team: 'shop' } });
  expect(made).toMatchObject({
    slug: 'orders',
    name: 'Orders',
    isPrivate: false,
    metadata: { team: 'shop' },
    messageCount: 0,
  });
  await expect(admin.createChannel({ name: 'Orders', slug: 'orders' })).rejects.toMatchObject({
    name: 'ConflictError',
  });
  expect(await admin.updateChannel('orders', { description: 'All orders' })).toMatchObject({
    description: 'All orders',
  });
  const { channels, pagination } = await admin.listChannels();
  expect(channels.map(({ slug }) => slug)).toEqual(['orders']);
  expect(pagination).toMatchObject({ page: 1, total: 1 });
  await admin.deleteChannel('orders');
  await expect(admin.getChannel('orders')).rejects.toMatchObject({ name: 'NotFoundError', status: 404 });
});

test('tokens are made by the server', async ({ pushflo: { backend } }) => {
  const { token, expiresAt, endpoint, clientId } = await backend.createToken({ clientId: 'ann', ttl: 60 });
  expect(token.split('.')).toHaveLength(3);
  expect(endpoint).toMatch(/^ws:.*\/ws$/);
  expect(clientId).toBe('ann');
  expect(Date.parse(expiresAt)).toBeGreaterThan(Date.now());
});

test('the past is read page by page, and by kind', async ({ pushflo: { backend } }) => {
  for (let n = 1; n <= 5; n++) await backend.publish('news', n, { eventType: n % 2 ? 'odd' : 'even' });
  const page = await backend.getMessageHistory<number>('news', { page: 2, pageSize: 2 });
  expect(page.messages.map(({ content }) => content)).toEqual([3, 2]);
  expect(page.pagination).toEqual({ page: 2, pageSize: 2, total: 5, totalPages: 3 });
  expect((await backend.getMessageHistory('news', { eventType: 'odd' })).messages).toHaveLength(3);
});

test('a publish whose answer is lost is published once', async ({ pushflo }) => {
  // The network swallows every other answer, after the server has done what it was asked.
  let attempts = 0;
  const lossy: typeof fetch = async (...call) => {
    const response = await fetch(...call);
    if (attempts++ % 2 === 0) throw new TypeError('the answer was lost');
    return response;
  };
  const backend = new PushFloServer({ secretKey: SECRET_KEY, baseUrl: pushflo.url, fetch: lossy });
  for (let n = 1; n <= 5; n++) expect(await backend.publish('news', n)).toMatchObject({ offset: n });
  await backend.publishBatch([
    { channel: 'news', data: 6 },
    { channel: 'news', data: 7 },
  ]);
  expect(attempts).toBe(12);
  const { messages } = await pushflo.backend.getMessageHistory<number>('news');
  expect(messages.map(({ content }) => content)).toEqual([7, 6, 5, 4, 3, 2, 1]);
});
