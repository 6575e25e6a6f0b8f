import { expect, test, upTo } from './fixtures';

test('a page connects, subscribes and shows messages as they come', async ({ pushflo, listen }) => {
  const tab = await listen('news');
  for (const n of upTo(20))
    expect(await pushflo.backend.publish('news', n)).toMatchObject({ delivered: 1, offset: n });
  expect(await tab.until(20)).toEqual(upTo(20));
});

test('two tabs see the same', async ({ pushflo, listen }) => {
  const tabs = [await listen('news'), await listen('news')];
  for (const n of upTo(20)) await pushflo.backend.publish({ channel: 'news', event: 'count', data: { n } });
  for (const tab of tabs) expect(await tab.until(20)).toEqual(upTo(20));
});

test('a page begins with the past it asks for', async ({ pushflo, listen }) => {
  for (const n of upTo(5)) await pushflo.backend.publish('news', n);
  const tab = await listen('news', { replay: { last: 3 } });
  await pushflo.backend.publish('news', 6);
  expect(await tab.until(6)).toEqual([3, 4, 5, 6]);
});

test('a key that is not known is refused once, and the page is told', async ({ pushflo, page, site }) => {
  const options = JSON.stringify({ channel: 'news', key: 'pub_00000000000000000000', url: pushflo.url });
  await page.goto(`${site.url}/listen.html?${new URLSearchParams({ options })}`);
  await expect(page.locator('#state')).toHaveText('error');
  await expect(page.locator('#events li')).toHaveText([/"code":"UNAUTHORIZED"/]);
});
