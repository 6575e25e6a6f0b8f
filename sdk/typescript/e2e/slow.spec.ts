import { expect, test, upTo } from './fixtures';

test.describe('a tab that is busy while more comes than the server keeps for it', () => {
  test.use({
    config: `
      [limits]
      tail_bytes = 262144
      [history]
      bytes_per_channel = 67108864
      [timeouts]
      linger_ms = 60000  # The tab reads the reason when it is free again, however slow the machine is.
    `,
  });

  test('is closed, comes back, and shows everything once and in order', async ({ pushflo, site, listen }) => {
    const tab = await listen('news');
    // The page waits for an answer with its only thread, as a long computation would.
    const busy = tab.page.evaluate(() => {
      const request = new XMLHttpRequest();
      request.open('GET', '/hold', false);
      request.send();
    });
    const last = 900;
    const pad = 'x'.repeat(30_000);
    for (let first = 1; first <= last; first += 30) {
      const items = upTo(first + 29, first).map((n) => ({ channel: 'news', data: { n, pad } }));
      expect(await pushflo.backend.publishBatch(items)).toMatchObject({ published: 30, failed: 0 });
    }
    expect(await pushflo.metric('pushflo_slow_consumers_total')).toBe(1);
    site.release();
    await busy;
    expect(await tab.until(last)).toEqual(upTo(last));
    await expect(tab.events('disconnected')).toHaveText([/"code":4008/]);
    await expect(tab.events('recovered')).toHaveCount(1);
    await expect(tab.events('gap')).toHaveCount(0);
  });
});
