/** The backend's side: publishing and everything else that is done over HTTP with a secret key. */
import { environment, resolveBaseUrl } from '../address';
import { checkText, VISIBLE_ASCII } from '../check';
import { AuthenticationError, ValidationError } from '../errors';
import type { LogTarget } from '../log';
import { checkChannel } from '../slug';
import { uniqueId } from '../unique';
import { type Answer, type Call, request, type RequestSettings } from './request';
import { signToken, type TokenGrant } from './token';
import type * as Types from './types';

export interface ServerOptions {
  /**
   * A `sec_` key, or a `mgmt_` key where channels are made and changed. Otherwise
   * `PUSHFLO_SECRET_KEY` or `PUSHFLO_API_KEY` from the environment.
   */
  secretKey?: string | undefined;
  /**
   * Where PushFlo is. Otherwise `NEXT_PUBLIC_PUSHFLO_URL` or `PUSHFLO_URL` from the environment, or
   * `http://127.0.0.1:7070`.
   */
  baseUrl?: string | undefined;
  /** Where channels are made and changed, if that is elsewhere. Otherwise `baseUrl`. */
  consoleUrl?: string | undefined;
  /** Milliseconds for one attempt. Default 30000. */
  timeout?: number | undefined;
  /**
   * Attempts in all, where trying again is safe; 1 for one alone, 0 for as many as `retryTimeout`
   * leaves room for. Default 3.
   */
  retryAttempts?: number | undefined;
  /** Milliseconds after which no attempt begins, also where the server asks for a longer wait. Default 60000. */
  retryTimeout?: number | undefined;
  /** Writes what happens to the console, or to a function. Keys and contents are left out. */
  debug?: LogTarget | undefined;
  /** Sends the requests; the global `fetch` where nothing is given. */
  fetch?: typeof fetch | undefined;
}

export interface PublishOptions {
  /** Default `message`. */
  eventType?: string | undefined;
  /** Who it comes from. */
  clientId?: string | undefined;
  /**
   * Names this publish: the same again within five minutes publishes nothing. Otherwise each call
   * has a name of its own, and only its own attempts count as the same.
   */
  idempotencyKey?: string | undefined;
  /** Ends the call. What was sent already may be published all the same. */
  signal?: AbortSignal | undefined;
}

/** Publishes, reads and manages. Every call @throws {PushFloError}. */
export class PushFloServer {
  /** @throws {AuthenticationError} for a key that cannot be one. */
  constructor(private readonly options: ServerOptions = {}) {
    if (options.secretKey) checkKey(options.secretKey);
  }

  /** Publishes one message. It is published once, however often it has to be tried. */
  publish(request: Types.PublishRequest & PublishOnce): Promise<Types.PublishResult>;
  publish(channel: string, content: unknown, options?: PublishOptions): Promise<Types.PublishResult>;
  async publish(
    to: (Types.PublishRequest & PublishOnce) | string,
    content?: unknown,
    options: PublishOptions = {},
  ): Promise<Types.PublishResult> {
    const { eventType: event, clientId, idempotencyKey: key, signal: stop } = options;
    const named = { event, clientId, idempotencyKey: key, signal: stop };
    const whole = typeof to === 'string' ? { channel: to, data: content, ...named } : to;
    const { idempotencyKey = uniqueId(), signal, ...body } = whole;
    checkChannel(body.channel);
    checkText('event', body.event);
    checkText('clientId', body.clientId);
    if (body.data === undefined) throw ValidationError.required('data');
    const call = { method: 'POST', path: '/api/v1/publish', body, idempotencyKey, signal } as const;
    return withClientId(await this.data<Types.PublishResult>(call));
  }

  /**
   * Publishes up to 1,000 messages, each with a result of its own: one that is wrong does not take
   * the others along.
   */
  async publishBatch(items: Types.BatchItem[], options: PublishOnce = {}): Promise<Types.BatchResult> {
    const { idempotencyKey = uniqueId(), signal } = options;
    return this.data({ method: 'POST', path: '/api/v1/publish/batch', body: items, idempotencyKey, signal });
  }

  /** A page of a channel's messages, newest first. */
  async getMessageHistory<T = any>(
    channel: string,
    options: Types.MessageHistoryOptions = {},
  ): Promise<Types.MessageHistory<T>> {
    const { page, pageSize, eventType, after, before, signal } = options;
    const { items, pagination } = await this.data<{
      items: Types.HistoryMessage<T>[];
      pagination: Types.MessageHistory['pagination'];
    }>({
      method: 'GET',
      path: `${channelPath(channel)}/messages`,
      query: { page, pageSize, eventType, after: after && Number(after), before: before && Number(before) },
      signal,
    });
    const messages = items.map((item) => ({
      ...withClientId(item),
      event: item.eventType,
      data: item.content,
    }));
    return { messages, pagination };
  }

  /** Makes a channel; needs a `mgmt_` key. @throws {ConflictError} where there is one of that slug. */
  async createChannel(channel: Types.ChannelInput): Promise<Types.Channel> {
    checkChannel(channel.slug);
    return this.data({ method: 'POST', path: '/api/v1/channels', body: channel, isManagement: true });
  }

  async listChannels({ page, pageSize, signal }: Types.ListChannelsOptions = {}): Promise<Types.ChannelPage> {
    const { data, pagination } = await this.call<Types.Channel[]>({
      method: 'GET',
      path: '/api/v1/channels',
      query: { page, pageSize },
      signal,
      isManagement: true,
    });
    const whole = { page: 1, pageSize: data.length, total: data.length, totalPages: 1 };
    return { channels: data, pagination: pagination ?? whole };
  }

  /** @throws {NotFoundError} */
  async getChannel(slug: string): Promise<Types.Channel> {
    return this.data({ method: 'GET', path: channelPath(slug), isManagement: true });
  }

  /** Changes what is named; needs a `mgmt_` key. @throws {NotFoundError} */
  async updateChannel(slug: string, change: Types.ChannelUpdateInput): Promise<Types.Channel> {
    const call = { method: 'PATCH', path: channelPath(slug), body: change, isRepeatable: true } as const;
    return this.data({ ...call, isManagement: true });
  }

  /** Deletes a channel with its messages; its subscribers are told. Needs a `mgmt_` key. */
  async deleteChannel(slug: string): Promise<void> {
    await this.call({ method: 'DELETE', path: channelPath(slug), isRepeatable: true, isManagement: true });
  }

  /** Has the server make a connection token. {@link signToken} does it without a call. */
  async createToken(grant: TokenGrant = {}): Promise<Types.ConnectionToken> {
    return this.data({ method: 'POST', path: '/api/v1/auth/token', body: grant, isRepeatable: true });
  }

  /** Makes a connection token here. */
  async signToken(grant: TokenGrant = {}): Promise<string> {
    return signToken(this.settings().secretKey, grant);
  }

  /** Who is subscribed to a channel. */
  async getPresence(
    channel: string,
    { page, pageSize, signal }: Types.ListChannelsOptions = {},
  ): Promise<Types.PresencePage> {
    const { data, pagination } = await this.call<Types.PresencePage>({
      method: 'GET',
      path: `${channelPath(channel)}/presence`,
      query: { page, pageSize },
      signal,
    });
    return { ...data, pagination };
  }

  private async call<T>(call: Call & { isManagement?: boolean }): Promise<Answer<T>> {
    return request<T>(this.settings(call.isManagement), call);
  }

  /** Read at each call: what is built without secrets, or before they are there, must not fail. */
  private settings(isManagement = false): RequestSettings {
    const { timeout = 30_000, retryAttempts = 3, retryTimeout = 60_000, debug, consoleUrl } = this.options;
    const baseUrl = resolveBaseUrl((isManagement && consoleUrl) || this.options.baseUrl);
    const secretKey =
      this.options.secretKey ||
      environment(() => process.env.PUSHFLO_SECRET_KEY) ||
      environment(() => process.env.PUSHFLO_API_KEY);
    if (!secretKey) {
      const text = 'secretKey is required: give it, or set PUSHFLO_SECRET_KEY';
      throw new AuthenticationError(text, 'MISSING_SECRET_KEY');
    }
    checkKey(secretKey);
    const send = this.options.fetch ?? ((...call) => fetch(...call));
    return { secretKey, baseUrl, timeout, retryAttempts, retryTimeout, debug, fetch: send };
  }

  private async data<T>(call: Call & { isManagement?: boolean }): Promise<T> {
    return (await this.call<T>(call)).data;
  }
}

type PublishOnce = Pick<PublishOptions, 'idempotencyKey' | 'signal'>;

function channelPath(slug: string): string {
  return `/api/v1/channels/${encodeURIComponent(checkChannel(slug))}`;
}

/** @throws {AuthenticationError} that does not repeat the key: it is a secret. */
function checkKey(key: string): void {
  if (!/^(sec|mgmt)_/.test(key)) throw AuthenticationError.invalidKey('secret');
  if (VISIBLE_ASCII.test(key)) return;
  const text = 'the secret key has a blank, a line break or another character that no key has';
  throw new AuthenticationError(text, 'INVALID_API_KEY');
}

/** The server says `null` where the publisher said nothing. */
function withClientId<T extends { clientId: string }>(told: T): T {
  return { ...told, clientId: told.clientId ?? '' };
}
