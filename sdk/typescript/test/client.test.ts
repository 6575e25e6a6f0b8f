/** @vitest-environment jsdom */
import { beforeEach, afterEach, describe, expect, it, vi } from 'vitest';
import { PushFloClient, type ClientOptions } from '../src/index';
import { FakeSocket, settled } from './fake-socket';

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
});
afterEach(() => {
  vi.useRealTimers();
});

function make(options: Partial<ClientOptions> = {}): PushFloClient {
  return new PushFloClient({
    publishKey: 'pub_1',
    baseUrl: 'http://push.test',
    webSocket: FakeSocket,
    ...options,
  });
}

async function connected(options: Partial<ClientOptions> = {}): Promise<PushFloClient> {
  const client = make(options);
  client.connect();
  await settled();
  FakeSocket.last.greets();
  return client;
}

describe('connecting', () => {
  it('opens a socket with the key, and resolves when it is greeted', async () => {
    const client = make();
    const seen = vi.fn();
    const promise = client.connect();
    client.on('connected', seen);
    await settled();
    expect(FakeSocket.last.url).toBe('ws://push.test/ws?token=pub_1');
    FakeSocket.last.greets();
    await promise;
    expect(seen).toHaveBeenCalledExactlyOnceWith({ clientId: 'me', timestamp: Date.now() });
    expect([client.connectionState, client.clientId]).toEqual(['connected', 'me']);
  });

  it('connects by itself with autoConnect, and otherwise not', async () => {
    make();
    await settled();
    expect(FakeSocket.all).toHaveLength(0);
    make({ autoConnect: true });
    await settled();
    expect(FakeSocket.all).toHaveLength(1);
  });

  it('is one socket when it connects, disconnects and connects in one turn', async () => {
    const client = make();
    client.connect();
    client.disconnect();
    client.connect();
    await settled();
    expect(FakeSocket.all).toHaveLength(1);
  });

  it('opens nothing when it is disconnected in the same turn, and rejects quietly', async () => {
    const client = make();
    const promise = client.connect();
    client.disconnect();
    await settled();
    expect(FakeSocket.all).toHaveLength(0);
    await expect(promise).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
  });

  it('tells why the server refuses', async () => {
    const client = make();
    const onError = vi.fn();
    client.on('error', onError);
    const promise = client.connect();
    await settled();
    FakeSocket.last.says({ type: 'error', error: 'the token is not known', code: 'UNAUTHORIZED' });
    FakeSocket.last.dies(4001);
    await expect(promise).rejects.toMatchObject({
      name: 'AuthenticationError',
      message: 'the token is not known',
    });
    expect(onError).toHaveBeenCalledOnce();
    expect(client.connectionState).toBe('error');
  });

  it('rejects when the first attempt fails, tells of it, and goes on', async () => {
    const client = make();
    const onError = vi.fn();
    client.on('error', onError);
    const promise = client.connect();
    await settled();
    FakeSocket.last.dies();
    const expected = { name: 'ConnectionError', code: 'CONNECTION_FAILED', retryable: true };
    await expect(promise).rejects.toMatchObject(expected);
    expect(onError).toHaveBeenCalledExactlyOnceWith(expect.objectContaining(expected));
    expect(onError.mock.calls[0]![0].message).toContain('http://push.test');
    expect(client.connectionState).toBe('connecting');
    await vi.advanceTimersByTimeAsync(1_000);
    FakeSocket.last.greets();
    expect(client.connectionState).toBe('connected');
  });

  it('says in the console once that it has given up where nobody listens', async () => {
    const console = vi.spyOn(globalThis.console, 'error').mockReturnValue();
    const client = make({ autoReconnect: false });
    client.connect();
    await settled();
    FakeSocket.last.dies();
    expect(client.connectionState).toBe('error');
    expect(console).toHaveBeenCalledExactlyOnceWith(
      expect.stringContaining('cannot connect to http://push.test'),
    );
  });

  it.each(['<html>502 Bad Gateway</html>', '', undefined, null, {}, { token: 7 }])(
    'takes %j for no token, and asks again later',
    async (brought) => {
      const getToken = vi.fn().mockResolvedValueOnce(brought).mockResolvedValueOnce('good');
      const client = make({ publishKey: undefined, getToken });
      client.on('error', vi.fn());
      await expect(client.connect()).rejects.toMatchObject({ code: 'TOKEN_ERROR', retryable: true });
      expect(FakeSocket.all).toHaveLength(0);
      await vi.advanceTimersByTimeAsync(1_000);
      expect(FakeSocket.last.url).toContain('token=good');
    },
  );

  it('leaves the token out of what it says', async () => {
    class Telling extends FakeSocket {
      constructor(url: string) {
        super(url);
        throw new SyntaxError(`the address '${url}' is invalid`);
      }
    }
    const client = make({ publishKey: 'pub_very secret', webSocket: Telling });
    const error = await client.connect().catch((error) => error);
    expect(error.message).toContain('token=…');
    expect(error.message).not.toContain('secret');
  });

  it('takes a token as text or as createToken gives it, anew for each connection', async () => {
    const getToken = vi
      .fn()
      .mockResolvedValueOnce('one')
      .mockReturnValueOnce({ token: 'two', clientId: 'x' });
    await connected({ publishKey: undefined, getToken });
    expect(FakeSocket.last.url).toContain('token=one');
    FakeSocket.last.dies(4001, 'token expired');
    await settled();
    expect(FakeSocket.last.url).toContain('token=two');
  });

  it('drops a token that comes after disconnect', async () => {
    let bring!: (token: string) => void;
    const client = make({ getToken: () => new Promise((resolve) => (bring = resolve)) });
    client.connect();
    client.disconnect();
    bring('late');
    await settled();
    expect(FakeSocket.all).toHaveLength(0);
  });

  it('takes the token it asked for last', async () => {
    const bring: ((token: string) => void)[] = [];
    const client = make({ getToken: () => new Promise((resolve) => bring.push(resolve)) });
    client.connect();
    client.disconnect();
    client.connect();
    bring[0]!('old');
    await settled();
    expect(FakeSocket.all).toHaveLength(0);
    bring[1]!('new');
    await settled();
    expect(FakeSocket.last.url).toContain('token=new');
  });

  it('gives up where no socket can be made', async () => {
    class Impossible extends FakeSocket {
      constructor(url: string) {
        super(url);
        throw new SyntaxError('bad address');
      }
    }
    const client = make({ webSocket: Impossible });
    await expect(client.connect()).rejects.toMatchObject({ message: expect.stringContaining('bad address') });
    expect(client.connectionState).toBe('error');
    expect(vi.getTimerCount()).toBe(0);
  });

  it('does not listen to a socket it has closed', async () => {
    const client = await connected();
    const old = FakeSocket.last;
    client.disconnect();
    client.connect();
    await settled();
    FakeSocket.last.greets();
    old.dies(4003);
    expect(client.connectionState).toBe('connected');
  });

  it('says what is missing', () => {
    expect(() => new PushFloClient({})).toThrow('publishKey or getToken');
    expect(() => make({ publishKey: 'nonsense' })).toThrow('Invalid publish API key');
    expect(() => make({ reconnectDelay: -1 })).toThrow('reconnectDelay must be');
    expect(() => make({ baseUrl: 'push.test' })).toThrow('must begin with http');
    expect(() => make({ publishKey: 'sec_1' })).toThrow('must not be in a page');
    const before = globalThis.WebSocket;
    vi.stubGlobal('WebSocket', undefined);
    expect(() => make({ webSocket: undefined }).connect()).toThrow('has no WebSocket');
    vi.stubGlobal('WebSocket', before);
  });
});

describe('what is left behind', () => {
  it.each(['connecting', 'connected', 'waiting to reconnect', 'error'])(
    'is nothing after destroy() while %s',
    async (phase) => {
      const listening = spyOnListeners();
      const before = listening();
      const client = make();
      client.connect();
      await settled();
      if (phase !== 'connecting') FakeSocket.last.greets();
      if (phase === 'waiting to reconnect') FakeSocket.last.dies();
      if (phase === 'error') FakeSocket.last.dies(4003);
      client.subscribe('a', {});
      if (phase !== 'error') expect(vi.getTimerCount()).toBeGreaterThan(0);
      client.destroy();
      await settled();
      expect(vi.getTimerCount()).toBe(0);
      expect(FakeSocket.open).toEqual([]);
      expect(listening()).toBe(before);
      expect(FakeSocket.last.onmessage === null || FakeSocket.last.closedWith !== undefined).toBe(true);
      expect(() => client.connect()).toThrow('destroyed');
    },
  );

  it('is nothing after disconnect(), but subscriptions come back with connect()', async () => {
    const client = await connected();
    client.subscribe('a', {});
    client.disconnect();
    expect(vi.getTimerCount()).toBe(0);
    client.connect();
    await settled();
    FakeSocket.last.greets();
    expect(FakeSocket.last.sent).toContainEqual({ type: 'subscribe', channel: 'a' });
  });
});

describe('subscriptions', () => {
  it('give messages with the names of the contract and of the article', async () => {
    const client = await connected();
    const [onMessage, everywhere] = [vi.fn(), vi.fn()];
    client.subscribe('a', { onMessage });
    client.on('message', everywhere);
    FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    FakeSocket.last.publishes('a', 1, { text: 'hi' });
    const message = {
      id: 'm1',
      channel: 'a',
      eventType: 'note',
      event: 'note',
      clientId: '',
      content: { text: 'hi' },
      data: { text: 'hi' },
      timestamp: 1,
      offset: 1,
    };
    expect(onMessage).toHaveBeenCalledExactlyOnceWith(message);
    expect(everywhere).toHaveBeenCalledExactlyOnceWith(message);
  });

  it('share one of the server, and end with the last', async () => {
    const client = await connected();
    const [first, second] = [vi.fn(), vi.fn()];
    const one = client.subscribe('a', { onMessage: first });
    const two = client.subscribe('a', { onMessage: second });
    FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    FakeSocket.last.publishes('a', 1, 1);
    one.unsubscribe();
    one.unsubscribe();
    FakeSocket.last.publishes('a', 2, 2);
    two.unsubscribe();
    FakeSocket.last.publishes('a', 3, 3);
    expect(FakeSocket.last.sent).toEqual([
      { type: 'subscribe', channel: 'a' },
      { type: 'unsubscribe', channel: 'a' },
    ]);
    expect([first.mock.calls.length, second.mock.calls.length]).toEqual([1, 2]);
  });

  it('tell a later listener that it is subscribed, and who is there', async () => {
    const client = await connected();
    client.subscribe('a', { onPresence: vi.fn() });
    FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    FakeSocket.last.says({ type: 'presence', channel: 'a', members: [{ clientId: 'x' }], count: 1 });
    const [onSubscribed, onPresence] = [vi.fn(), vi.fn()];
    client.subscribe('a', { onSubscribed, onPresence });
    expect(onSubscribed).not.toHaveBeenCalled();
    await settled();
    expect(onSubscribed).toHaveBeenCalledExactlyOnceWith();
    expect(onPresence).toHaveBeenCalledExactlyOnceWith({
      members: [{ clientId: 'x' }],
      count: 1,
      joined: [],
      left: [],
    });
  });

  it('give the past only to those who asked for it', async () => {
    const client = await connected();
    const [asked, other] = [vi.fn(), vi.fn()];
    client.subscribe('a', { onMessage: asked, replay: { last: 1 } });
    client.subscribe('a', { onMessage: other });
    FakeSocket.last.says({
      type: 'subscribed',
      channel: 'a',
      epoch: 'e',
      offset: 1,
      recovered: true,
      replayed: 1,
    });
    FakeSocket.last.publishes('a', 1, 1);
    expect([asked.mock.calls.length, other.mock.calls.length]).toEqual([1, 0]);
  });

  it('each get as much of the past as they asked for', async () => {
    const client = await connected();
    const seen: Record<string, number[]> = { two: [], one: [], live: [] };
    const onMessage = (name: string) => (message: { data: number }) => void seen[name]!.push(message.data);
    client.subscribe('a', { onMessage: onMessage('one'), replay: { last: 1 } });
    client.subscribe('a', { onMessage: onMessage('two'), replay: { last: 2 } });
    client.subscribe('a', { onMessage: onMessage('live') });
    const answer = { type: 'subscribed', channel: 'a', epoch: 'e', offset: 9, recovered: true } as const;
    FakeSocket.last.says({ ...answer, replayed: 1 });
    FakeSocket.last.publishes('a', 9, 9);
    expect(seen).toEqual({ one: [9], two: [], live: [] });
    // The second came when the first was asked for: it gets its own round.
    FakeSocket.last.says({ type: 'unsubscribed', channel: 'a' });
    FakeSocket.last.says({ ...answer, replayed: 2 });
    FakeSocket.last.publishes('a', 8, 8);
    FakeSocket.last.publishes('a', 9, 9);
    FakeSocket.last.says({ type: 'unsubscribed', channel: 'a' });
    FakeSocket.last.says({ ...answer, offset: 10, replayed: 1 });
    FakeSocket.last.publishes('a', 10, 10);
    FakeSocket.last.publishes('a', 11, 11);
    expect(seen).toEqual({ one: [9, 10, 11], two: [8, 9, 10, 11], live: [10, 11] });
    expect(FakeSocket.last.sent).toEqual([
      { type: 'subscribe', channel: 'a', replay: { last: 1 } },
      { type: 'unsubscribe', channel: 'a' },
      { type: 'subscribe', channel: 'a', replay: { last: 2 } },
      { type: 'unsubscribe', channel: 'a' },
      { type: 'subscribe', channel: 'a', recover: { epoch: 'e', offset: 9 } },
    ]);
  });

  it('ask once for all who are there before the connection', async () => {
    const client = make();
    const answers = (offset: number, replayed: number) =>
      FakeSocket.last.says({
        type: 'subscribed',
        channel: 'a',
        epoch: 'e',
        offset,
        recovered: true,
        replayed,
      });
    const [few, many, since] = [vi.fn(), vi.fn(), vi.fn()];
    client.subscribe('a', { onMessage: few, replay: { last: 1 } });
    client.subscribe('a', { onMessage: many, replay: { last: 3 } });
    client.connect();
    await settled();
    FakeSocket.last.greets();
    expect(FakeSocket.last.sent).toEqual([{ type: 'subscribe', channel: 'a', replay: { last: 3 } }]);
    answers(3, 3);
    for (const n of [1, 2, 3, 4]) FakeSocket.last.publishes('a', n, n);
    expect([few.mock.calls.length, many.mock.calls.length]).toEqual([2, 4]);
    // One that wants another kind of past comes later, and tells the others nothing.
    client.subscribe('a', { onMessage: since, replay: { since: 1 } });
    FakeSocket.last.says({ type: 'unsubscribed', channel: 'a' });
    expect(FakeSocket.last.sent.at(-1)).toEqual({ type: 'subscribe', channel: 'a', replay: { since: 1 } });
    answers(4, 0);
    FakeSocket.last.says({ type: 'unsubscribed', channel: 'a' });
    answers(4, 0);
    FakeSocket.last.publishes('a', 5, 5);
    expect([few, many, since].map(({ mock }) => mock.calls.length)).toEqual([3, 5, 1]);
  });

  it('tell of refusals, and of a channel that was deleted', async () => {
    const client = await connected();
    const [onError, onUnsubscribed, everywhere] = [vi.fn(), vi.fn(), vi.fn()];
    client.on('error', everywhere);
    client.subscribe('a', { onError, onUnsubscribed });
    FakeSocket.last.says({ type: 'error', error: 'private', code: 'FORBIDDEN', channel: 'a' });
    expect(onError).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({ name: 'ForbiddenError', channel: 'a' }),
    );
    expect(everywhere).toHaveBeenCalledOnce();
    client.subscribe('b', { onUnsubscribed });
    FakeSocket.last.says({ type: 'subscribed', channel: 'b', epoch: 'e', offset: 0 });
    FakeSocket.last.says({ type: 'unsubscribed', channel: 'b' });
    expect(onUnsubscribed).toHaveBeenCalledExactlyOnceWith();
  });

  it('end all at once, and are told of', async () => {
    const client = await connected();
    const onUnsubscribed = vi.fn();
    client.subscribe('a', { onUnsubscribed });
    client.subscribe('a', { onUnsubscribed });
    client.subscribe('b');
    expect(client.getSubscribedChannels()).toEqual(['a', 'b']);
    client.unsubscribe('a');
    client.unsubscribe('nobody');
    expect(onUnsubscribed).toHaveBeenCalledTimes(2);
    expect([client.isSubscribed('a'), client.isSubscribed('b')]).toEqual([false, true]);
  });

  it.each([{ last: 1.5 }, { last: -1 }, { last: Number.NaN }, { since: '1' }, {}, { last: 1, since: 1 }, 7])(
    'cannot ask for the past with %j',
    (replay) => {
      const client = make();
      expect(() => client.subscribe('a', { replay: replay as never })).toThrow('replay must be');
      expect(client.getSubscribedChannels()).toEqual([]);
    },
  );

  it('are checked before they are sent', () => {
    expect(() => make().subscribe('a b')).toThrow('not "a b"');
    expect(() => make().subscribe('orders:user-123')).not.toThrow();
  });
});

describe('listeners', () => {
  it('may subscribe and unsubscribe while they are told, and may throw', async () => {
    const client = await connected();
    const console = vi.spyOn(globalThis.console, 'error').mockReturnValue();
    const after = vi.fn();
    const subscription = client.subscribe('a', {
      onMessage: () => {
        subscription.unsubscribe();
        client.subscribe('b', {});
        throw new Error('mine');
      },
    });
    client.subscribe('a', { onMessage: after });
    FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    FakeSocket.last.publishes('a', 1, 1);
    FakeSocket.last.publishes('a', 2, 2);
    expect(after).toHaveBeenCalledTimes(2);
    expect(console).toHaveBeenCalledOnce();
    expect(FakeSocket.last.sent).toContainEqual({ type: 'subscribe', channel: 'b' });
  });

  it('hear of what happened in the order in which it happened', async () => {
    const client = make();
    const seen: string[] = [];
    client.onConnectionChange((state) => state === 'connected' && client.disconnect());
    client.onConnectionChange((state) => seen.push(state));
    client.on('connected', () => seen.push('greeted'));
    client.connect();
    await settled();
    FakeSocket.last.greets();
    expect(seen).toEqual(['connecting', 'connected', 'greeted', 'disconnected']);
  });

  it('can be taken away, and can be for once', async () => {
    const client = make();
    const [once, off, states] = [vi.fn(), vi.fn(), vi.fn()];
    client.once('connected', once);
    client.on('connected', off);
    client.off('connected', off);
    const stop = client.onConnectionChange(states);
    for (let round = 0; round < 2; round++) {
      client.connect();
      await settled();
      FakeSocket.last.greets();
      client.disconnect();
      if (!round) stop();
    }
    expect(once).toHaveBeenCalledOnce();
    expect(off).not.toHaveBeenCalled();
    expect(states.mock.calls.flat()).toEqual(['connecting', 'connected', 'disconnected']);
  });
});

describe('the page', () => {
  it('coming back online or into view reconnects at once', async () => {
    await connected();
    for (const wake of [
      () => window.dispatchEvent(new Event('online')),
      () => document.dispatchEvent(new Event('visibilitychange')),
    ]) {
      FakeSocket.last.dies();
      const before = FakeSocket.all.length;
      wake();
      await settled();
      expect(FakeSocket.all).toHaveLength(before + 1);
      FakeSocket.last.greets();
    }
  });
});

describe('publishing', () => {
  it('gives a receipt, in both forms', async () => {
    const client = await connected();
    const first = client.publish({ channel: 'a', event: 'note', data: 1 });
    const second = client.publish('a', 2, { eventType: 'note' });
    const sent = FakeSocket.last.sent as { ref: string; id: string; data: number }[];
    expect(sent).toEqual(
      [1, 2].map((data) => ({
        type: 'publish',
        channel: 'a',
        event: 'note',
        data,
        ref: expect.stringMatching(/^[0-9a-f]{32}$/),
        id: expect.any(String),
      })),
    );
    for (const { ref, data } of sent) {
      FakeSocket.last.says({
        type: 'published',
        channel: 'a',
        messageId: `m${data}`,
        offset: data,
        timestamp: 9,
        ref,
      });
    }
    expect(await Promise.all([first, second])).toEqual(
      [1, 2].map((n) => ({ id: `m${n}`, channel: 'a', offset: n, timestamp: 9 })),
    );
  });

  it('takes the data as it is now, and only what JSON can say', async () => {
    const client = await connected();
    const data = { n: 1 };
    client.publish('a', data).catch(() => {});
    data.n = 2;
    FakeSocket.last.dies();
    window.dispatchEvent(new Event('online'));
    await settled();
    FakeSocket.last.greets();
    expect(FakeSocket.last.sent).toEqual([expect.objectContaining({ data: { n: 1 } })]);
    await expect(client.publish('a', undefined)).rejects.toMatchObject({ code: 'VALIDATION_ERROR' });
    await expect(client.publish('a', 1n)).rejects.toThrow('must be JSON');
    const circle: unknown[] = [];
    circle.push(circle);
    await expect(client.publish('a', circle)).rejects.toMatchObject({ name: 'ValidationError' });
    await expect(client.publish({ channel: 'a', event: 7 as never, data: 1 })).rejects.toThrow('event must');
    client.destroy();
  });

  it('is rejected where nothing connects', async () => {
    await expect(make().publish('a', 1)).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
  });
});

it('goes on where debug throws, or cannot show something', async () => {
  const console = vi.spyOn(globalThis.console, 'error').mockReturnValue();
  const client = await connected({
    debug: () => {
      throw new Error('no');
    },
  });
  expect(client.connectionState).toBe('connected');
  expect(console).not.toHaveBeenCalled();
});

it('has listeners like other emitters', async () => {
  const client = make();
  const [on, once, off] = [vi.fn(), vi.fn(), vi.fn()];
  expect(
    client.on('disconnected', on).once('disconnected', once).on('message', off).off('message', off),
  ).toBe(client);
  expect(client.eventNames()).toEqual(['disconnected']);
  expect([client.listenerCount('disconnected'), client.listenerCount('message')]).toEqual([2, 0]);
  for (let round = 0; round < 2; round++) {
    client.connect();
    await settled();
    FakeSocket.last.greets();
    client.disconnect();
  }
  expect(on).toHaveBeenCalledTimes(2);
  expect(on).toHaveBeenCalledWith('disconnect() was called', expect.objectContaining({ code: 1000 }));
  expect(once).toHaveBeenCalledOnce();
  expect(client.removeAllListeners().eventNames()).toEqual([]);
});

it('leaves keys and tokens out of what debug writes', async () => {
  const lines: string[] = [];
  await connected({ debug: (line) => lines.push(line) });
  expect(lines.join()).toContain('out ["open",{"token":"…"}]');
  expect(lines.join()).not.toContain('pub_1');
});

/** Counts listeners of the window and the document from now on. */
function spyOnListeners(): () => number {
  let count = 0;
  for (const target of [window, document]) {
    vi.spyOn(target, 'addEventListener').mockImplementation(() => void count++);
    vi.spyOn(target, 'removeEventListener').mockImplementation(() => void count--);
  }
  return () => count;
}
