import { expect, test } from './fixtures';

test('a token is renewed over the open connection before it expires', async ({ pushflo, site, listen }) => {
  const tab = await listen('news', { tokenTtl: 3 });
  await expect.poll(() => site.tokens, { timeout: 30_000 }).toBeGreaterThanOrEqual(4);
  await pushflo.backend.publish('news', 1);
  expect(await tab.until(1)).toEqual([1]);
  // One connection all along.
  await expect(tab.events('connected')).toHaveCount(1);
  await expect(tab.events('error')).toHaveCount(0);
  await expect(tab.events('connected')).toHaveText([/"clientId":"tab"/]);
});

test('a token that expires is replaced, and nothing is missed', async ({ pushflo, site, listen }) => {
  const tab = await listen('news', { tokenTtl: 2 });
  // The backend is away when the token is to be renewed.
  site.isTokenRefused = true;
  await expect(tab.events('disconnected')).toHaveText([/"code":4001/], { timeout: 20_000 });
  await pushflo.backend.publish('news', 1);
  site.isTokenRefused = false;
  expect(await tab.until(1)).toEqual([1]);
});
