// Node's ws against the server.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { createRequire } from 'node:module';
import WebSocket from 'ws';

const { PUSHFLO_URL, PUSHFLO_PUBLISH_KEY, PUSHFLO_SECRET_KEY } = process.env;
const { version } = createRequire(import.meta.url)('ws/package.json');
const MESSAGES = 1000;
const LARGE = 'ä'.repeat(15_000);

class Client {
  constructor(key) {
    this.socket = new WebSocket(`${PUSHFLO_URL.replace('http', 'ws')}/ws?token=${key}`);
    this.events = [];
    this.waiting = [];
    this.socket.on('message', (bytes, isBinary) => {
      assert.equal(isBinary, false);
      const event = JSON.parse(bytes);
      const waiting = this.waiting.shift();
      if (waiting) waiting(event);
      else this.events.push(event);
    });
    this.closed = once(this.socket, 'close');
  }

  event() {
    if (this.events.length > 0) return this.events.shift();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  send(command) {
    this.socket.send(JSON.stringify(command));
  }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

function publish(channel, data) {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${PUSHFLO_SECRET_KEY}` };
    const request = http.request(`${PUSHFLO_URL}/api/v1/publish`, { method: 'POST', headers, agent });
    request.on('error', reject);
    request.on('response', async (response) => {
      const parts = await response.toArray();
      const answer = JSON.parse(Buffer.concat(parts));
      if (response.statusCode === 200) resolve(answer.data);
      else reject(new Error(answer.error));
    });
    request.end(JSON.stringify({ channel, data }));
  });
}

const client = new Client(PUSHFLO_PUBLISH_KEY);
assert.equal((await client.event()).type, 'connected');
assert.equal(client.socket.extensions, '');
client.send({ type: 'subscribe', channel: 'ws' });
assert.equal((await client.event()).type, 'subscribed');
const numbers = [...Array(MESSAGES).keys()];
const given = new Map(
  await Promise.all(numbers.map(async (number) => [(await publish('ws', number)).offset, number])),
);
for (let offset = 1; offset <= MESSAGES; offset += 1) {
  const message = await client.event();
  assert.deepEqual([message.offset, message.data], [offset, given.get(offset)]);
}
for (const payload of ['', 'payload', 'x'.repeat(125)]) {
  client.socket.ping(payload);
  assert.equal(String((await once(client.socket, 'pong'))[0]), payload);
}
client.socket.send('{"type":', { fin: false });
client.socket.ping('between');
client.socket.send('"ping"}', { fin: true });
assert.deepEqual(await client.event(), { type: 'pong' });
assert.equal((await publish('ws', LARGE)).delivered, 1);
assert.equal((await client.event()).data, LARGE);
client.socket.close(4999, 'done');
assert.equal((await client.closed)[0], 4999);

const binary = new Client(PUSHFLO_PUBLISH_KEY);
await binary.event();
binary.socket.send(Buffer.from('binary'));
assert.equal((await binary.closed)[0], 1003);

const refused = new Client('pub_wrong');
assert.equal((await refused.event()).code, 'UNAUTHORIZED');
assert.equal((await refused.closed)[0], 4001);
agent.destroy();
console.log(`ws ${version}: good`);
