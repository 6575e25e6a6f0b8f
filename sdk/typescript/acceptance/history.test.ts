/** Several subscribers of one channel, early and late, each with a past of its own, while messages come. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import WebSocket from 'ws';
import { PUBLISH_KEY, PushFlo } from '../e2e/pushflo';
import { PushFloClient, type Replay } from '../src/index';

let pushflo: PushFlo;
beforeAll(async () => {
  pushflo = await PushFlo.start();
});
afterAll(() => pushflo.stop());

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

it('gives each what it asked for, in order, once and without a hole', async () => {
  const publish = async (from: number, to: number) => {
    for (let n = from; n <= to; n++) await pushflo.backend.publish('past', n);
  };
  await publish(1, 20);
  const client = new PushFloClient({ publishKey: PUBLISH_KEY, baseUrl: pushflo.url, webSocket: WebSocket });
  const gaps: unknown[] = [];
  const subscribed: number[] = [];
  const join = (replay?: Replay) => {
    const seen: number[] = [];
    const at = subscribed.push(0) - 1;
    client.subscribe<number>('past', {
      ...(replay && { replay }),
      onMessage: ({ data }) => seen.push(data),
      onGap: (gap) => gaps.push(gap),
      onSubscribed: () => subscribed[at]!++,
    });
    return seen;
  };
  const since = Date.now();
  const early = [join({ last: 5 }), join({ last: 2 }), join(), join({ since: 0 })];
  await client.connect();
  const publishing = publish(21, 400);
  const late: [number, number[]][] = [];
  for (let round = 0; round < 12; round++) {
    await pause(25);
    const last = [0, 1, 3, 50][round % 4]!;
    late.push([last, join({ last })]);
  }
  const all = join({ since: 0 });
  const recent = join({ since });
  await publishing;
  const whole = (seen: number[]) => seen.at(-1) === 400;
  await expect.poll(() => [...early, all, recent, ...late.map(([, seen]) => seen)].every(whole)).toBe(true);
  await pause(200);
  const upTo400 = (first: number) => Array.from({ length: 401 - first }, (_, at) => first + at);
  expect(early.map((seen) => seen[0])).toEqual([16, 19, 21, 1]);
  expect([all[0], recent[0]! >= 20]).toEqual([1, true]);
  for (const seen of [...early, all, recent, ...late.map(([, seen]) => seen)]) {
    expect(seen).toEqual(upTo400(seen[0]!));
  }
  expect(gaps).toEqual([]);
  expect(new Set(subscribed)).toEqual(new Set([1]));
  client.destroy();
}, 60_000);
