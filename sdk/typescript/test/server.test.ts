import { createHash, createHmac } from 'node:crypto';
import { describe, expect, it, vi } from 'vitest';
import { PushFloServer, type ServerOptions, signToken } from '../src/server';

const OK = { success: true, data: { id: 'm', offset: 1 } };

/** A server whose answers are `answers`, one for each attempt: a status with its body, or a failure. */
function scripted(
  answers: (Error | [number, unknown?, Record<string, string>?])[],
  options: ServerOptions = {},
) {
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((run: () => void, ms: number) => {
    // Waits between attempts are over at once; the limit of an attempt never comes.
    waits.push(ms);
    if (ms < 30_000) queueMicrotask(run);
    return 0;
  }) as never);
  const waits: number[] = [];
  const calls: { url: string; method: string; body: unknown; headers: Record<string, string> }[] = [];
  const fetch = vi.fn(async (url: string, init: RequestInit) => {
    const body = init.body === undefined ? undefined : JSON.parse(String(init.body));
    calls.push({ url, method: init.method!, body, headers: init.headers as Record<string, string> });
    const answer = answers[Math.min(calls.length, answers.length) - 1]!;
    if (answer instanceof Error) throw answer;
    const [status, json, headers] = answer;
    return new Response(json === undefined ? null : JSON.stringify(json), { status, headers });
  });
  const server = new PushFloServer({
    secretKey: 'sec_1',
    baseUrl: 'http://push.test/',
    fetch: fetch as never,
    ...options,
  });
  return { server, calls, waits };
}

describe('publishing', () => {
  it('sends both forms the same way', async () => {
    const { server, calls } = scripted([[200, OK]]);
    await server.publish({ channel: 'a', event: 'note', data: { n: 1 } });
    await server.publish('a', { n: 1 }, { eventType: 'note' });
    for (const call of calls) {
      expect(call).toEqual({
        url: 'http://push.test/api/v1/publish',
        method: 'POST',
        body: { channel: 'a', event: 'note', data: { n: 1 } },
        headers: {
          Authorization: 'Bearer sec_1',
          'Content-Type': 'application/json',
          'Idempotency-Key': expect.stringMatching(/^[0-9a-f]{32}$/),
        },
      });
    }
    expect(calls[0]!.headers['Idempotency-Key']).not.toBe(calls[1]!.headers['Idempotency-Key']);
  });

  it('tries again with the same key until it is answered', async () => {
    const { server, calls } = scripted([new TypeError('fetch failed'), [503], [502], [200, OK]], {
      retryAttempts: 4,
    });
    expect(await server.publish('a', 1)).toMatchObject(OK.data);
    expect(new Set(calls.map(({ headers }) => headers['Idempotency-Key'])).size).toBe(1);
    expect(calls).toHaveLength(4);
  });

  it('gives up after retryAttempts', async () => {
    const { server, calls } = scripted(
      [Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNREFUSED' } })],
      { retryAttempts: 2 },
    );
    await expect(server.publish('a', 1)).rejects.toMatchObject({
      name: 'NetworkError',
      code: 'NETWORK_ERROR',
      retryable: true,
      message: expect.stringContaining('ECONNREFUSED'),
    });
    expect(calls).toHaveLength(2);
  });

  it('does not try again what is wrong', async () => {
    const refusal = {
      success: false,
      error: 'data is required',
      code: 'VALIDATION_ERROR',
      details: { data: ['is required'] },
    };
    const { server, calls } = scripted([[400, refusal]]);
    await expect(server.publish('a', 1)).rejects.toMatchObject({
      name: 'NetworkError',
      code: 'VALIDATION_ERROR',
      status: 400,
      statusCode: 400,
      retryable: false,
      details: { data: ['is required'] },
    });
    expect(calls).toHaveLength(1);
    await expect(server.publish('a b', 1)).rejects.toMatchObject({ code: 'VALIDATION_ERROR' });
    expect(calls).toHaveLength(1);
  });

  it('waits as long as it is asked to', async () => {
    const limited = { success: false, error: 'slow down', code: 'RATE_LIMITED' };
    const { server, waits } = scripted([
      [429, limited, { 'Retry-After': '2' }],
      [200, OK],
    ]);
    await server.publish('a', 1);
    const wait = waits.find((ms) => ms !== 30_000)!;
    expect(wait).toBeGreaterThanOrEqual(2_000);
    expect(wait).toBeLessThan(2_500);
  });

  it('does not try again where the month is over its quota', async () => {
    const { server, calls } = scripted([
      [429, { success: false, error: 'no more', code: 'QUOTA_EXCEEDED' }, { 'Retry-After': '9' }],
    ]);
    await expect(server.publish('a', 1)).rejects.toMatchObject({
      name: 'RateLimitError',
      code: 'QUOTA_EXCEEDED',
      retryAfter: 9,
    });
    expect(calls).toHaveLength(1);
  });

  it('makes a batch one call with one key', async () => {
    const { server, calls } = scripted([
      [500],
      [200, { success: true, data: { published: 1, failed: 0, results: [] } }],
    ]);
    await server.publishBatch([{ channels: ['a', 'b'], data: 1 }]);
    expect(calls[1]).toMatchObject({
      url: 'http://push.test/api/v1/publish/batch',
      body: [{ channels: ['a', 'b'], data: 1 }],
    });
    expect(calls[0]!.headers['Idempotency-Key']).toBe(calls[1]!.headers['Idempotency-Key']);
  });

  it('stops an attempt that takes longer than timeout', async () => {
    const fetch = (_: string, { signal }: RequestInit) =>
      new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason)));
    const server = new PushFloServer({
      secretKey: 'sec_1',
      fetch: fetch as never,
      timeout: 5,
      retryAttempts: 1,
    });
    await expect(server.publish('a', 1)).rejects.toMatchObject({
      name: 'NetworkError',
      code: 'REQUEST_TIMEOUT',
      retryable: true,
    });
  });
});

describe('mistakes of the caller', () => {
  it('are told before anything is sent, and not tried again', async () => {
    const { server, calls } = scripted([[200, OK]]);
    const circle: unknown[] = [];
    circle.push(circle);
    const wrong = [
      server.publish('a', 1n),
      server.publish('a', circle),
      server.publish('a', undefined),
      server.publish('a b', 1),
      server.publish('a', 1, { eventType: 7 as never }),
      server.publish('a', 1, { idempotencyKey: 'a b' }),
      server.createChannel({ name: 'A', slug: 'a b' }),
    ];
    for (const call of wrong)
      await expect(call).rejects.toMatchObject({ name: 'ValidationError', retryable: false });
    expect(calls).toEqual([]);
    expect(() => new PushFloServer({ secretKey: 'pub_1' })).toThrow('Invalid secret API key');
  });

  it('say that another site answers', async () => {
    const page = async () => new Response('<!doctype html>', { status: 200 });
    const server = new PushFloServer({
      secretKey: 'sec_1',
      baseUrl: 'http://shop.test',
      fetch: page as never,
    });
    await expect(server.getChannel('a')).rejects.toMatchObject({
      name: 'NetworkError',
      code: 'PARSE_ERROR',
      retryable: false,
      message: expect.stringContaining('http://shop.test answered 200, and not as PushFlo does'),
    });
  });

  it('leave the key out of errors', async () => {
    const { server } = scripted([new TypeError('"Bearer sec_1" is an invalid header value')], {
      retryAttempts: 1,
    });
    const error = await server.publish('a', 1).catch((error) => error);
    expect(error.message).toContain('"Bearer …"');
  });
});

describe('trying again', () => {
  const limited = { success: false, error: 'slow down', code: 'RATE_LIMITED' };

  it('ends where the server asks for a longer wait than there is time', async () => {
    const { server, calls } = scripted([[429, limited, { 'Retry-After': '120' }]]);
    await expect(server.publish('a', 1)).rejects.toMatchObject({ code: 'RATE_LIMITED', retryAfter: 120 });
    expect(calls).toHaveLength(1);
  });

  it('goes on without a limit of attempts until the time is over', async () => {
    const { server, calls } = scripted([[503]], { retryAttempts: 0, retryTimeout: 50 });
    await expect(server.publish('a', 1)).rejects.toMatchObject({ code: 'SERVER_ERROR' });
    expect(calls).toHaveLength(1);
  });

  it('ends with the signal, before, between and in attempts', async () => {
    const { server, calls } = scripted([[200, OK]]);
    const ended = { name: 'NetworkError', code: 'ABORTED', retryable: false };
    await expect(server.publish('a', 1, { signal: AbortSignal.abort() })).rejects.toMatchObject(ended);
    expect(calls).toEqual([]);
    vi.restoreAllMocks();
    for (const fetch of [
      (_: string, { signal }: RequestInit) =>
        new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason))),
      async () => new Response(JSON.stringify(limited), { status: 429, headers: { 'Retry-After': '30' } }),
    ]) {
      const abort = new AbortController();
      const waiting = new PushFloServer({ secretKey: 'sec_1', fetch: fetch as never });
      const call = waiting.publish('a', 1, { signal: abort.signal });
      setTimeout(() => abort.abort(), 20);
      await expect(call).rejects.toMatchObject(ended);
    }
  });
});

describe('other calls', () => {
  it('have the addresses of the contract', async () => {
    const { server, calls } = scripted([[200, { success: true, data: { items: [] } }]]);
    const after = new Date(5);
    await server.getMessageHistory('orders:1', { page: 2, pageSize: 10, after });
    await server.listChannels({ page: 2 });
    await server.getChannel('a');
    await server.createChannel({ name: 'A', slug: 'a' });
    await server.updateChannel('a', { isPrivate: true });
    await server.createToken({ clientId: 'me', ttl: 60 });
    await server.getPresence('a', { pageSize: 1000 });
    expect(
      calls.map(({ method, url, body }) => [
        `${method} ${url.slice('http://push.test/api/v1'.length)}`,
        body,
      ]),
    ).toEqual([
      ['GET /channels/orders%3A1/messages?page=2&pageSize=10&after=5', undefined],
      ['GET /channels?page=2', undefined],
      ['GET /channels/a', undefined],
      ['POST /channels', { name: 'A', slug: 'a' }],
      ['PATCH /channels/a', { isPrivate: true }],
      ['POST /auth/token', { clientId: 'me', ttl: 60 }],
      ['GET /channels/a/presence?pageSize=1000', undefined],
    ]);
  });

  it('do not make a channel twice', async () => {
    const { server, calls } = scripted([new TypeError('fetch failed'), [200, OK]]);
    await expect(server.createChannel({ name: 'A', slug: 'a' })).rejects.toMatchObject({
      code: 'NETWORK_ERROR',
    });
    expect(calls).toHaveLength(1);
  });

  it('delete once, also when the first answer is lost', async () => {
    const gone = { success: false, error: 'no such channel', code: 'NOT_FOUND' };
    const { server } = scripted([new TypeError('fetch failed'), [404, gone]]);
    await expect(server.deleteChannel('a')).resolves.toBeUndefined();
    await expect(scripted([[404, gone]]).server.deleteChannel('a')).rejects.toMatchObject({
      name: 'NotFoundError',
    });
  });

  it.each([
    [401, 'AuthenticationError'],
    [403, 'ForbiddenError'],
    [404, 'NotFoundError'],
    [409, 'ConflictError'],
    [413, 'NetworkError'],
    [429, 'RateLimitError'],
    [502, 'ServerError'],
  ])('take a status %i without a body for a %s', async (status, name) => {
    const { server } = scripted([[status]], { retryAttempts: 1 });
    await expect(server.getChannel('a')).rejects.toMatchObject({ name, status });
  });

  it('take what they need from the environment, when they are made', async () => {
    const { server, calls } = scripted([[200, OK]], { secretKey: undefined, baseUrl: undefined });
    vi.stubEnv('PUSHFLO_SECRET_KEY', '');
    vi.stubEnv('PUSHFLO_API_KEY', '');
    await expect(server.publish('a', 1)).rejects.toMatchObject({ code: 'MISSING_SECRET_KEY' });
    vi.stubEnv('PUSHFLO_API_KEY', 'sec_with a line break\n');
    const refused = await server.publish('a', 1).catch((error) => error);
    expect(refused).toMatchObject({ name: 'AuthenticationError', code: 'INVALID_API_KEY' });
    expect(refused.message).not.toContain('with a line');
    vi.stubEnv('PUSHFLO_API_KEY', 'sec_2');
    vi.stubEnv('PUSHFLO_URL', 'http://there.test');
    await server.publish('a', 1);
    expect(calls[0]).toMatchObject({
      url: 'http://there.test/api/v1/publish',
      headers: { Authorization: 'Bearer sec_2' },
    });
    vi.unstubAllEnvs();
  });
});

describe('signed tokens', () => {
  const claims = (token: string) => JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString());

  it('are what another implementation makes of the same', async () => {
    const secret = 'sec_0123456789abcdef0123';
    const token = await signToken(
      secret,
      { clientId: 'ü', channels: ['user-*'], publish: ['chat'], data: { n: 1 }, ttl: 60 },
      1_000_500,
    );
    const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
    const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const kid = `key_${sha256(secret).slice(0, 16)}`;
    const payload = {
      aud: 'pushflo',
      exp: 1060,
      sub: 'ü',
      channels: ['user-*'],
      publish: ['chat'],
      data: { n: 1 },
    };
    const signed = `${encode({ alg: 'HS256', typ: 'JWT', kid })}.${encode(payload)}`;
    const signature = createHmac('sha256', sha256(`pushflo-token:${secret}`))
      .update(signed)
      .digest('base64url');
    expect(token).toBe(`${signed}.${signature}`);
  });

  it('last an hour where nothing is said, and say nothing that was not said', async () => {
    const nowS = Math.floor(Date.now() / 1000);
    const token = claims(await new PushFloServer({ secretKey: 'sec_1' }).signToken());
    expect(Object.keys(token).sort()).toEqual(['aud', 'exp']);
    expect(token.exp - nowS).toBeGreaterThanOrEqual(3_600);
    expect(token.exp - nowS).toBeLessThan(3_610);
  });

  it.each([0, 86_401, Number.NaN])('cannot last %s seconds', async (ttl) => {
    await expect(signToken('sec_1', { ttl })).rejects.toMatchObject({ code: 'VALIDATION_ERROR' });
  });
});
