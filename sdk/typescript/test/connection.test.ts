import { describe, expect, it } from 'vitest';
import { Stage } from './stage';

describe('connecting', () => {
  it('gets a token, opens a socket and is greeted', () => {
    const stage = new Stage().apply('connect');
    expect(stage.since()).toEqual([['state', 'connecting', undefined], ['fetchToken']]);
    stage.apply('token', { token: 'key' });
    expect(stage.since()).toEqual([['open', { token: 'key' }]]);
    stage.says({ type: 'connected', clientId: 'me', timestamp: 5 });
    expect(stage.since()).toEqual([
      ['state', 'connected', undefined],
      ['connected', 'me', 5],
    ]);
  });

  it('is one connection, however often it is asked for', () => {
    const stage = new Stage().connected();
    stage.since();
    stage.apply('connect').apply('connect');
    expect(stage.since()).toEqual([]);
  });

  it('gives up an attempt that takes longer than connectionTimeout', () => {
    const stage = new Stage({ connectionTimeout: 3_000 }).apply('connect');
    stage.apply('token', { token: 't' }).pass(2_999);
    expect(stage.isSocketOpen).toBe(true);
    stage.pass(1);
    expect(stage.isSocketOpen).toBe(false);
    expect(stage.due('retry')).toBe(1_000);
  });

  it('tries again when getToken fails, and says why', () => {
    const stage = new Stage({ renewsTokens: true }).apply('connect');
    const error = Object.assign(new Error('no session'), {}) as never;
    stage.apply('tokenFailed', error);
    expect(stage.since()).toContainEqual(['error', error]);
    expect(stage.due('retry')).toBe(1_000);
  });

  it.each(['waiting for a token', 'opening', 'open', 'waiting', 'error'])(
    'leaves nothing when disconnected while %s',
    (phase) => {
      const stage = new Stage().apply('connect');
      if (phase !== 'waiting for a token') stage.apply('token', { token: 't' });
      if (phase === 'open') stage.greeted().apply('subscribe', 'a').apply('wake');
      if (phase === 'waiting') stage.closes(1006);
      if (phase === 'error') stage.closes(4003);
      stage.apply('disconnect');
      expect([...stage.timers.keys()]).toEqual([]);
      expect(stage.isSocketOpen).toBe(false);
      expect(stage.session.state()).toBe('disconnected');
      stage.since();
      // What was under way comes too late.
      stage.apply('token', { token: 't' }).apply('closed', 1006, '').apply('wake');
      expect(stage.since()).toEqual([]);
    },
  );
});

describe('reconnecting', () => {
  it('waits longer each time, up to a limit, with jitter', () => {
    const stage = new Stage({ maxReconnectDelay: 5_000 }).connected().pass(5_000);
    const waits = [1, 0, 1, 0.5, 1].map((chance) => {
      stage.chance = chance;
      stage.closes(1006);
      const wait = stage.due('retry')!;
      stage.pass(wait).apply('token', { token: 't' });
      return wait;
    });
    expect(waits).toEqual([1_000, 1_000, 4_000, 3_750, 5_000]);
    expect(stage.session.state()).toBe('connecting');
  });

  it('begins anew after a connection that held, not after one that did not', () => {
    const stage = new Stage().connected().closes(1006).pass(1_000).greeted().pass(4_999).closes(1006);
    expect(stage.due('retry')).toBe(2_000);
    stage.pass(2_000).greeted().pass(5_000).closes(1006);
    expect(stage.due('retry')).toBe(1_000);
  });

  it('tries at once when the network or the user comes back', () => {
    const stage = new Stage().connected().closes(1006).apply('wake');
    expect(stage.tokensWanted).toBe(2);
    expect(stage.due('retry')).toBeUndefined();
  });

  it('waits as long as the server asks, also when the network comes back', () => {
    const stage = new Stage().connected().closes(1001, '{"retryAfterMs":4200}').apply('wake').pass(4_199);
    expect(stage.tokensWanted).toBe(1);
    expect(stage.pass(1).tokensWanted).toBe(2);
  });

  it('does not wait for ever because a server says so', () => {
    expect(new Stage().connected().closes(1001, '{"retryAfterMs":99999999999}').due('retry')).toBe(300_000);
  });

  it('comes back at once when it was too slow, but not in a loop', () => {
    const stage = new Stage().connected().pass(5_000).closes(4008);
    expect(stage.tokensWanted).toBe(2);
    stage.greeted().closes(4008);
    expect(stage.due('retry')).toBe(2_000);
  });

  it('stays away long when the plan has no room', () => {
    const stage = new Stage();
    stage.chance = 0;
    stage.connected().closes(4029).apply('wake');
    expect(stage.due('retry')).toBe(30_000);
  });

  it('gives up after maxReconnectAttempts', () => {
    const stage = new Stage({ maxReconnectAttempts: 2 }).connected();
    stage.closes(1006).pass(1_000).apply('token', { token: 't' });
    stage.closes(1006).pass(2_000).apply('token', { token: 't' });
    stage.since();
    stage.closes(1006, 'gone');
    expect(stage.session.state()).toBe('error');
    const error = expect.objectContaining({ code: 'MAX_RECONNECT_ATTEMPTS' });
    expect(stage.since()).toContainEqual(['error', error]);
    expect(stage.timers.size).toBe(0);
  });

  it('does not try where autoReconnect is off', () => {
    const stage = new Stage({ autoReconnect: false }).connected().closes(1006);
    expect(stage.session.state()).toBe('error');
    expect(stage.connected().session.state()).toBe('connected');
  });
});

describe('refusals', () => {
  it('does not try a refused key again, and says what the server said', () => {
    const stage = new Stage().apply('connect').apply('token', { token: 't' });
    stage.says({ type: 'error', code: 'UNAUTHORIZED', error: 'the token is not known' }).closes(4001);
    expect(stage.session.state()).toBe('error');
    const errors = stage.since().filter(([what]) => what === 'error');
    const error = expect.objectContaining({ message: 'the token is not known', code: 'UNAUTHORIZED' });
    expect(errors).toEqual([['error', error]]);
  });

  it('gets a new token once when one is refused', () => {
    const stage = new Stage({ renewsTokens: true }).connected().closes(4001, 'token expired');
    expect(stage.tokensWanted).toBe(2);
    stage.apply('token', { token: 'new' }).closes(4001, 'token expired');
    expect(stage.session.state()).toBe('error');
    expect(stage.tokensWanted).toBe(2);
  });

  it('gets a new token each time after one was accepted', () => {
    const stage = new Stage({ renewsTokens: true }).connected();
    for (let round = 0; round < 3; round++) stage.closes(4001, 'token expired').greeted().pass(5_000);
    expect(stage.session.state()).toBe('connected');
  });

  it('waits before it tries another token where one after the other expires at once', () => {
    const stage = new Stage({ renewsTokens: true }).connected().closes(4001, 'token expired').greeted();
    expect(stage.closes(4001, 'token expired').due('retry')).toBe(2_000);
  });

  it('does not try again where it is forbidden', () => {
    const stage = new Stage({ renewsTokens: true }).connected().closes(4003, 'this origin may not connect');
    expect(stage.session.state()).toBe('error');
    expect(stage.timers.size).toBe(0);
  });
});

describe('signs of life', () => {
  it('pings, and drops the connection twice the interval after a ping without any answer', () => {
    const stage = new Stage().connected();
    stage.pass(25_000).says({ type: 'pong' });
    stage.sent();
    stage.pass(25_000).pass(25_000);
    expect(stage.sent()).toEqual([{ type: 'ping' }, { type: 'ping' }]);
    stage.pass(24_999);
    expect(stage.session.state()).toBe('connected');
    stage.pass(1);
    expect(stage.session.state()).toBe('connecting');
    expect(stage.isSocketOpen).toBe(false);
  });

  it('takes any frame for a sign of life', () => {
    const stage = new Stage().subscribed();
    for (let offset = 1; offset < 10; offset++) stage.pass(24_000).publishes(offset);
    expect(stage.session.state()).toBe('connected');
  });

  it.each(['wake', 'offline'] as const)('asks at once on %s, and drops a dead connection soon', (type) => {
    const stage = new Stage().connected();
    stage.sent();
    stage.apply(type);
    expect(stage.sent()).toEqual([{ type: 'ping' }]);
    stage.says({ type: 'pong' }).pass(6_000);
    expect(stage.session.state()).toBe('connected');
    stage.apply(type).pass(5_000);
    expect(stage.session.state()).toBe('connecting');
  });

  it('can do without pings', () => {
    const stage = new Stage({ heartbeatInterval: 0 }).connected().pass(1_000_000);
    expect(stage.sent()).toEqual([]);
  });
});

describe('tokens that expire', () => {
  it('are renewed over the open connection', () => {
    const stage = new Stage({ renewsTokens: true }).connected();
    stage.says({ type: 'token_expiring', expiresAt: stage.nowMs + 30_000 });
    expect(stage.tokensWanted).toBe(2);
    stage.sent();
    stage.apply('token', { token: 'new' });
    expect(stage.sent()).toEqual([{ type: 'refresh', token: 'new' }]);
  });

  it('are asked for again when getToken fails', () => {
    const stage = new Stage({ renewsTokens: true }).connected();
    stage.says({ type: 'token_expiring', expiresAt: stage.nowMs + 30_000 });
    stage.apply('tokenFailed', new Error('busy') as never).pass(5_000);
    expect(stage.tokensWanted).toBe(3);
    expect(stage.session.state()).toBe('connected');
  });

  it('end the connection where there is no getToken', () => {
    const stage = new Stage().connected().says({ type: 'token_expiring', expiresAt: 0 });
    expect(stage.tokensWanted).toBe(1);
    expect(stage.closes(4001).session.state()).toBe('error');
  });
});
