import { expect, it } from 'vitest';
import type { PublishFrame } from '../src/core/wire';
import { Stage } from './stage';

const frame: PublishFrame = { type: 'publish', channel: 'a', data: 1, ref: 'r', id: 'r' };
const answer = {
  type: 'published',
  channel: 'a',
  messageId: 'm',
  offset: 1,
  timestamp: 5,
  ref: 'r',
} as const;
const refused = (code: string) => ['answered', 'r', expect.objectContaining({ code })];

it('is sent and answered', () => {
  const stage = new Stage().connected();
  stage.since();
  stage.publish(frame).says(answer).says(answer);
  expect(stage.since()).toEqual([
    ['send', frame],
    ['answered', 'r', answer],
  ]);
});

it('waits for the connection, and is sent again on the next one with the same id', () => {
  const stage = new Stage().apply('connect').publish(frame);
  expect(stage.sent()).toEqual([]);
  expect(stage.greeted().sent()).toEqual([frame]);
  expect(stage.closes(1006).pass(1_000).greeted().sent()).toEqual([frame]);
  stage.says(answer).closes(1006).pass(2_000).greeted();
  expect(stage.sent()).toEqual([]);
});

it('is not sent again when the server may have forgotten its id', () => {
  const stage = new Stage().connected().publish(frame).closes(1006);
  stage.timers.clear();
  stage.since();
  stage.pass(240_000).apply('connect').greeted();
  expect(stage.since()).toContainEqual(refused('CONNECTION_TIMEOUT'));
});

it('tells why it was refused', () => {
  const stage = new Stage().connected().publish(frame);
  stage.says({ type: 'error', code: 'FORBIDDEN', error: 'not granted', channel: 'a', ref: 'r' });
  expect(stage.since()).toContainEqual(refused('FORBIDDEN'));
});

it('tells which limit was reached', () => {
  const stage = new Stage().connected().publish(frame);
  stage.since();
  const limit = 'publishesPerSecond';
  stage.says({ type: 'error', code: 'RATE_LIMITED', error: 'too many', channel: 'a', ref: 'r', limit });
  const answer = expect.objectContaining({
    retryable: true,
    channel: 'a',
    details: { [limit]: ['too many'] },
  });
  expect(stage.since()).toEqual([['answered', 'r', answer]]);
});

it('is refused without a connection, and when the connection is given up', () => {
  const stage = new Stage().publish(frame);
  expect(stage.since()).toEqual([refused('NOT_CONNECTED')]);
  stage.connected().publish(frame).apply('disconnect');
  expect(stage.since()).toContainEqual(refused('CONNECTION_CLOSED'));
});

it('has a limit on how many may wait', () => {
  const stage = new Stage().connected();
  for (let n = 0; n < 1_000; n++) stage.publish({ ...frame, ref: `${n}` });
  stage.since();
  stage.publish(frame);
  expect(stage.since()).toEqual([refused('OVERLOADED')]);
});

it('refuses the one that is too large, and sends the others again', () => {
  const stage = new Stage().connected();
  const publish = (ref: string, data: string) =>
    stage.publish({ type: 'publish', channel: 'a', data, ref, id: ref });
  publish('small', 'x');
  publish('large', 'x'.repeat(100_000));
  publish('next', 'y');
  stage.since();
  stage.closes(1009, 'too large');
  const refusal = expect.objectContaining({ code: 'PAYLOAD_TOO_LARGE', retryable: false });
  expect(stage.since()).toContainEqual(['answered', 'large', refusal]);
  stage.sent();
  stage.pass(1_000).apply('token', { token: 't' }).greeted();
  expect(stage.sent()).toEqual([
    expect.objectContaining({ ref: 'small' }),
    expect.objectContaining({ ref: 'next' }),
  ]);
});

it('sends again with the same id what may have been published', () => {
  const stage = new Stage().connected();
  stage.publish(frame);
  stage.sent();
  stage.says({ type: 'error', code: 'UNKNOWN_OUTCOME', error: 'a node is out of reach', ref: 'r' });
  expect(stage.since()).toEqual([]);
  stage.pass(1_000);
  expect(stage.sent()).toEqual([frame]);
  stage.says(answer);
  expect(stage.since()).toEqual([['answered', 'r', answer]]);
});
