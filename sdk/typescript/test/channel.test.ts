import { describe, expect, it } from 'vitest';
import { Stage } from './stage';

const SUBSCRIBE = { type: 'subscribe', channel: 'a' };
const UNSUBSCRIBE = { type: 'unsubscribe', channel: 'a' };
const recover = (offset: number) => ({ ...SUBSCRIBE, recover: { epoch: 'e', offset } });

/** Away for so long, and back. */
function away(stage: Stage, ms = 1_000): Stage {
  stage.closes(1006);
  stage.timers.delete('retry');
  stage.nowMs += ms;
  stage.log.length = 0;
  return stage.apply('connect').greeted();
}

describe('subscribing', () => {
  it('waits for the connection', () => {
    const stage = new Stage().apply('subscribe', 'a');
    expect(stage.sent()).toEqual([]);
    expect(stage.connected().sent()).toEqual([SUBSCRIBE]);
  });

  it('is one subscription for several listeners', () => {
    const stage = new Stage().subscribed().apply('subscribe', 'a');
    expect(stage.sent()).toEqual([SUBSCRIBE]);
  });

  it('has one question under way at a time', () => {
    const stage = new Stage().connected();
    stage.sent();
    const [on, off] = [
      ['subscribe', 'a'],
      ['unsubscribe', 'a'],
    ] as const;
    stage
      .apply(...on)
      .apply(...off)
      .apply(...on)
      .apply(...off);
    expect(stage.sent()).toEqual([SUBSCRIBE]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    expect(stage.sent()).toEqual([UNSUBSCRIBE]);
    stage.apply(...on);
    expect(stage.sent()).toEqual([]);
    stage.says({ type: 'unsubscribed', channel: 'a' });
    expect(stage.sent()).toEqual([SUBSCRIBE]);
  });

  it('asks for the past at first, and tells it from what is new', () => {
    const stage = new Stage().connected().apply('subscribe', 'a', { last: 2 });
    expect(stage.sent()).toEqual([{ ...SUBSCRIBE, replay: { last: 2 } }]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 9, recovered: true, replayed: 2 });
    stage.publishes(8).publishes(9).publishes(10);
    const past = stage.log.flatMap((e) =>
      e[0] === 'tell' && e[2].type === 'message' ? [e[2].past?.left ?? 0] : [],
    );
    expect(past).toEqual([2, 1, 0]);
    expect(stage.told()).toEqual(['subscribed', 8, 9, 'filled', 10]);
  });

  it('asks for the past again when the connection is lost before it came', () => {
    const stage = new Stage().connected().apply('subscribe', 'a', { last: 2 });
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 9, recovered: true, replayed: 2 });
    expect(away(stage).sent()).toEqual([{ ...SUBSCRIBE, replay: { last: 2 } }]);
  });

  it('tries again later where the server is full, and tells of other refusals', () => {
    const stage = new Stage().connected().apply('subscribe', 'a');
    stage.sent();
    stage.says({ type: 'error', channel: 'a', code: 'OVERLOADED', error: 'full' });
    expect(stage.due('resubscribe')).toBe(1_000);
    expect(stage.pass(1_000).sent()).toEqual([SUBSCRIBE]);
    stage.says({ type: 'error', channel: 'a', code: 'FORBIDDEN', error: 'private' });
    expect(stage.since()).toEqual([
      ['refused', 'a', expect.objectContaining({ code: 'FORBIDDEN', channel: 'a' })],
    ]);
  });

  it('ends when the server says so, and does not come back', () => {
    const stage = new Stage().subscribed();
    stage.log.length = 0;
    stage.says({ type: 'unsubscribed', channel: 'a' }).publishes(1);
    expect(stage.told()).toEqual(['unsubscribed']);
    expect(away(stage).sent()).toEqual([]);
  });
});

describe('recovering', () => {
  it('goes on where it was', () => {
    const stage = new Stage().subscribed(7).publishes(8).publishes(9);
    expect(away(stage).sent()).toEqual([recover(9)]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 11, recovered: true, replayed: 2 });
    stage.publishes(10).publishes(11).publishes(12);
    expect(stage.told()).toEqual(['subscribed', 'recovered', 10, 11, 12]);
  });

  it('drops what it has seen', () => {
    const stage = new Stage().subscribed().publishes(1).publishes(2).publishes(2).publishes(1).publishes(3);
    expect(stage.told()).toEqual(['subscribed', 1, 2, 3]);
  });

  it('follows leaps that the server announces', () => {
    const stage = new Stage().subscribed(3).publishes(4).publishes(9, { prev: 4 }).publishes(10);
    expect(stage.told()).toEqual(['subscribed', 4, 9, 10]);
  });

  it('asks for a hole that nobody announced', () => {
    const stage = new Stage().subscribed().publishes(1);
    stage.log.length = 0;
    stage.publishes(3);
    expect(stage.sent()).toEqual([UNSUBSCRIBE]);
    stage.publishes(4).says({ type: 'unsubscribed', channel: 'a' });
    expect(stage.sent()).toEqual([recover(1)]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 4, recovered: true, replayed: 3 });
    stage.publishes(2).publishes(3).publishes(4);
    expect(stage.told()).toEqual(['subscribed', 'recovered', 2, 3, 4]);
  });

  it('tells of a hole that stays', () => {
    const stage = new Stage()
      .subscribed()
      .publishes(1)
      .publishes(3)
      .says({ type: 'unsubscribed', channel: 'a' });
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 3, recovered: true, replayed: 1 });
    stage.log.length = 0;
    expect(stage.publishes(3).told()).toEqual(['gap', 3]);
  });

  it('asks again for a hole on another connection', () => {
    const stage = away(new Stage().subscribed().publishes(1).publishes(3));
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 3, recovered: true, replayed: 1 });
    stage.log.length = 0;
    expect(stage.publishes(3).sent()).toEqual([UNSUBSCRIBE]);
  });

  it('counts the time away from when the stream was lost, over attempts that came to nothing', () => {
    const stage = away(new Stage({ replayWindow: 60_000 }).subscribed(5), 40_000);
    expect(stage.sent()).toEqual([recover(5)]);
    expect(away(stage, 40_000).sent()).toEqual([{ ...SUBSCRIBE, replay: { since: stage.nowMs - 60_000 } }]);
  });

  it('tells of a gap where the server has no more', () => {
    const stage = away(new Stage().subscribed(5));
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 50, recovered: false, replayed: 0 });
    const gap = { type: 'gap', after: { epoch: 'e', offset: 5 }, head: { epoch: 'e', offset: 50 } };
    expect(stage.log).toContainEqual(['tell', 'a', gap]);
    stage.log.length = 0;
    expect(stage.publishes(51).told()).toEqual([51]);
  });

  it('tells of a gap where the log is another one', () => {
    const stage = away(new Stage().subscribed(5));
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'f', offset: 2, recovered: false, replayed: 0 });
    expect(stage.publishes(3).told()).toEqual(['subscribed', 'gap', 3]);
  });

  it('goes on in a new log that begins under it', () => {
    const stage = new Stage().subscribed(5).publishes(1, { epoch: 'f' }).publishes(2, { epoch: 'f' });
    expect(stage.told()).toEqual(['subscribed', 1, 2]);
  });

  it('after longer than replayWindow asks for what is in the window, and tells of the gap', () => {
    const stage = new Stage({ replayWindow: 60_000 }).subscribed(5);
    expect(away(stage, 60_001).sent()).toEqual([{ ...SUBSCRIBE, replay: { since: stage.nowMs - 60_000 } }]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 21, recovered: true, replayed: 2 });
    stage.publishes(20).publishes(21).publishes(22);
    expect(stage.told()).toEqual(['subscribed', 'gap', 20, 21, 22]);
  });

  it('tells of no gap where nothing was published meanwhile', () => {
    const stage = away(new Stage({ replayWindow: 60_000 }).subscribed(5), 60_001);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 5, recovered: true, replayed: 0 });
    expect(stage.told()).toEqual(['subscribed', 'recovered']);
  });

  it('begins at the head where replayOnReconnect is off', () => {
    const stage = new Stage({ replayOnReconnect: false }).subscribed(5);
    expect(away(stage).sent()).toEqual([SUBSCRIBE]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 8 });
    expect(stage.publishes(9).told()).toEqual(['subscribed', 'gap', 9]);
  });

  it('begins anew for one who comes after all have left', () => {
    const stage = new Stage().subscribed(5).apply('unsubscribe', 'a');
    stage.says({ type: 'unsubscribed', channel: 'a' }).sent();
    stage.apply('subscribe', 'a');
    expect(stage.sent()).toEqual([SUBSCRIBE]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 9 });
    expect(stage.publishes(10).told()).toEqual(['subscribed', 10]);
  });

  it('begins at the head for one who comes while others recover and leave', () => {
    const stage = away(new Stage().subscribed(5));
    stage.apply('unsubscribe', 'a').apply('subscribe', 'a');
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 6, recovered: true, replayed: 1 });
    expect(stage.publishes(6).publishes(7).told()).toEqual(['subscribed', 7]);
  });
});

describe('presence', () => {
  it('is asked for, and followed', () => {
    const stage = new Stage().connected().apply('subscribe', 'a', undefined, true);
    expect(stage.sent()).toEqual([{ ...SUBSCRIBE, presence: true }]);
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    stage.says({
      type: 'presence',
      channel: 'a',
      members: [{ clientId: 'x' }, { clientId: 'y', data: 1 }],
      count: 2,
    });
    stage.says({
      type: 'presence',
      channel: 'a',
      joined: [{ clientId: 'z' }],
      left: [{ clientId: 'x' }],
      count: 2,
    });
    const presence = {
      type: 'presence',
      count: 2,
      members: [{ clientId: 'y', data: 1 }, { clientId: 'z' }],
      joined: [{ clientId: 'z' }],
      left: [{ clientId: 'x' }],
    };
    expect(stage.since().at(-1)).toEqual(['tell', 'a', presence]);
  });

  it('tells one who merely says who it is from one who is', () => {
    const stage = new Stage().connected().apply('subscribe', 'a', undefined, true);
    const ann = { clientId: 'ann', data: { admin: true } };
    const mallory = { clientId: 'ann', verified: false } as const;
    stage.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    stage.says({ type: 'presence', channel: 'a', members: [ann], count: 1 });
    stage.says({ type: 'presence', channel: 'a', joined: [mallory], left: [], count: 2 });
    expect(stage.since().at(-1)).toMatchObject(['tell', 'a', { members: [ann, mallory], count: 2 }]);
    stage.says({ type: 'presence', channel: 'a', joined: [], left: [mallory], count: 1 });
    expect(stage.since().at(-1)).toMatchObject(['tell', 'a', { members: [ann], count: 1 }]);
  });

  it('is asked for anew, losing nothing, when the first who wants it comes later', () => {
    const stage = new Stage().subscribed(5);
    stage.sent();
    stage.apply('subscribe', 'a', undefined, true);
    expect(stage.sent()).toEqual([UNSUBSCRIBE]);
    stage.says({ type: 'unsubscribed', channel: 'a' });
    expect(stage.sent()).toEqual([{ ...recover(5), presence: true }]);
  });
});
