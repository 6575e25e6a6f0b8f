import { expect, test } from './fixtures';
import { PUBLISH_KEY } from './pushflo';

test('React in strict mode has one connection, and none when it is gone', async ({ pushflo, site, page }) => {
  const connections = () => pushflo.metric('pushflo_websocket_connections');
  const sockets: string[] = [];
  page.on('websocket', (socket) => sockets.push(socket.url()));
  const warnings: string[] = [];
  page.on('console', (line) => ['warning', 'error'].includes(line.type()) && warnings.push(line.text()));
  await pushflo.backend.publish('news', 'before');
  const options = JSON.stringify({ key: PUBLISH_KEY, url: pushflo.url });
  await page.goto(`${site.url}/strict.html?${new URLSearchParams({ options })}`);
  await expect(page.locator('#subscribed')).toHaveText('true');
  await pushflo.backend.publish('news', 'live');
  await expect(page.locator('#messages li')).toHaveText(['before', 'live']);
  // Mounted twice, connected once: not even a socket that was opened and thrown away.
  expect(sockets).toHaveLength(1);
  await expect.poll(() => pushflo.metric('pushflo_subscriptions')).toBe(1);

  for (let round = 0; round < 3; round++) {
    await page.getByText('reload').click();
    await expect(page.locator('#messages li')).toHaveText(['before', 'live']);
    await expect.poll(connections).toBe(1);
  }
  await page.getByText('toggle').click();
  await expect.poll(connections).toBe(0);
  await page.getByText('toggle').click();
  await expect(page.locator('#state')).toHaveText('connected');
  expect(warnings).toEqual([]);
});
