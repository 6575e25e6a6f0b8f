import { expect, test, upTo } from './fixtures';

test('a server that is killed while messages flow: each is shown once and in order', async ({
  pushflo,
  listen,
}) => {
  const tab = await listen('news');
  let [last, isEnough] = [0, false];
  const publishing = (async () => {
    while (!isEnough) await pushflo.backend.publish('news', ++last);
  })();
  for (let kills = 1; kills <= 3; kills++) {
    const shown = await tab.messages.count();
    await expect.poll(() => tab.messages.count()).toBeGreaterThan(shown + 20);
    await pushflo.kill();
    await pushflo.start();
    await expect(tab.events('recovered')).toHaveCount(kills);
  }
  isEnough = true;
  await publishing;
  expect(await tab.until(last)).toEqual(upTo(last));
  await expect(tab.events('gap')).toHaveCount(0);
});

test.describe('a deployment', () => {
  test.use({ config: 'drain_spread_ms = 0' });

  test('is not seen', async ({ pushflo, listen }) => {
    const tab = await listen('news');
    await pushflo.backend.publish('news', 1);
    await pushflo.drain();
    await pushflo.start();
    await pushflo.backend.publish('news', 2);
    expect(await tab.until(2)).toEqual([1, 2]);
    await expect(tab.events('disconnected')).toHaveText([/"code":1001/]);
  });
});

test('offline and online again: what was missed is shown', async ({ pushflo, listen, context }) => {
  const tab = await listen('news', { client: { maxReconnectDelay: 600_000, reconnectDelay: 600_000 } });
  await pushflo.backend.publish('news', 1);
  await tab.until(1);
  await context.setOffline(true);
  await expect(tab.state).toHaveText('connecting');
  for (const n of [2, 3]) await pushflo.backend.publish('news', n);
  expect(await tab.numbers()).toEqual([1]);
  // The next attempt is minutes away: only `online` can bring the connection back.
  await context.setOffline(false);
  expect(await tab.until(3)).toEqual([1, 2, 3]);
});

test.describe('history that has expired', () => {
  test.use({ config: '[history]\nage_ms = 1000' });

  test('is told as a gap', async ({ pushflo, listen, context }) => {
    const tab = await listen('news');
    await pushflo.backend.publish('news', 1);
    await tab.until(1);
    await context.setOffline(true);
    await expect(tab.state).toHaveText('connecting');
    for (const n of [2, 3]) await pushflo.backend.publish('news', n);
    await expect.poll(async () => (await pushflo.backend.getMessageHistory('news')).messages).toEqual([]);
    await context.setOffline(false);
    await expect(tab.events('gap')).toHaveText([/"after":\{[^}]*"offset":1\},"head":\{[^}]*"offset":3\}/]);
    await pushflo.backend.publish('news', 4);
    expect(await tab.until(4)).toEqual([1, 4]);
  });
});
