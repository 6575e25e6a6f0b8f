/** The backend's side: publishing and everything else that is done over HTTP with a secret key. */
import { environment, resolveBaseUrl } from '../address';
import { PushFloError } from '../errors';
import { checkChannel } from '../slug';
import { uniqueId } from '../unique';
import { type Answer, type Call, request, type RequestSettings } from './request';
import { signToken, type TokenGrant } from './token';
import type * as Types from './types';

export interface PushFloServerOptions {
  /**
   * A `sec_` key, or a `mgmt_` key where channels are made and changed. Otherwise
   * `PUSHFLO_SECRET_KEY` or `PUSHFLO_API_KEY` from the environment.
   */
  secretKey?: string;
  /**
   * Where PushFlo is. Otherwise `NEXT_PUBLIC_PUSHFLO_URL` or `PUSHFLO_URL` from the environment, or
   * `http://127.0.0.1:7070`.
   */
  baseUrl?: string;
  /** Milliseconds for one attempt. Default 10000. */
  timeout?: number;
  /** Attempts after the first, where trying again is safe. Default 3. */
  retryAttempts?: number;
  /** Sends the requests; the global `fetch` where nothing is given. */
  fetch?: typeof fetch;
}

export interface PublishOptions {
  /** Default `message`. */
  eventType?: string;
  /** Who it comes from. */
  clientId?: string;
  /**
   * Names this publish: the same again within five minutes publishes nothing. Otherwise each call
   * has a name of its own, and only its own attempts count as the same.
   */
  idempotencyKey?: string;
}

/** Publishes, reads and manages. Every call @throws {PushFloError}. */
export class PushFloServer {
  constructor(private readonly options: PushFloServerOptions = {}) {}

  /** Publishes one message. It is published once, however often it has to be tried. */
  publish(request: Types.PublishRequest & { idempotencyKey?: string }): Promise<Types.PublishResult>;
  publish(channel: string, content: unknown, options?: PublishOptions): Promise<Types.PublishResult>;
  async publish(
    to: (Types.PublishRequest & { idempotencyKey?: string }) | string,
    content?: unknown,
    options: PublishOptions = {},
  ): Promise<Types.PublishResult> {
    const { idempotencyKey = uniqueId(), ...body } =
      typeof to === 'string'
        ? {
            channel: to,
            event: options.eventType,
            clientId: options.clientId,
            data: content,
            idempotencyKey: options.idempotencyKey,
          }
        : to;
    checkChannel(body.channel);
    return this.data({ method: 'POST', path: '/api/v1/publish', body, idempotencyKey });
  }

  /**
   * Publishes up to 1,000 messages, each with a result of its own: one that is wrong does not take
   * the others along.
   */
  async publishBatch(
    items: Types.BatchItem[],
    options: { idempotencyKey?: string } = {},
  ): Promise<Types.BatchResult> {
    const { idempotencyKey = uniqueId() } = options;
    return this.data({ method: 'POST', path: '/api/v1/publish/batch', body: items, idempotencyKey });
  }

  /** A page of a channel's messages, newest first. */
  async getMessageHistory<T = any>(
    channel: string,
    query: Types.HistoryQuery = {},
  ): Promise<Types.HistoryPage<T>> {
    const { page, pageSize, eventType, after, before } = query;
    return this.data({
      method: 'GET',
      path: `${channelPath(channel)}/messages`,
      query: { page, pageSize, eventType, after: after && Number(after), before: before && Number(before) },
    });
  }

  /** Makes a channel; needs a `mgmt_` key. @throws {ConflictError} where there is one of that slug. */
  async createChannel(channel: Types.NewChannel): Promise<Types.ChannelInfo> {
    return this.data({ method: 'POST', path: '/api/v1/channels', body: channel });
  }

  async listChannels({ page, pageSize }: Types.PageQuery = {}): Promise<Types.ChannelPage> {
    const { data, pagination } = await this.call<Types.ChannelInfo[]>({
      method: 'GET',
      path: '/api/v1/channels',
      query: { page, pageSize },
    });
    const whole = { page: 1, pageSize: data.length, total: data.length, totalPages: 1 };
    return { channels: data, pagination: pagination ?? whole };
  }

  /** @throws {NotFoundError} */
  async getChannel(slug: string): Promise<Types.ChannelInfo> {
    return this.data({ method: 'GET', path: channelPath(slug) });
  }

  /** Changes what is named; needs a `mgmt_` key. @throws {NotFoundError} */
  async updateChannel(slug: string, change: Types.ChannelChange): Promise<Types.ChannelInfo> {
    return this.data({ method: 'PATCH', path: channelPath(slug), body: change, isRepeatable: true });
  }

  /** Deletes a channel with its messages; its subscribers are told. Needs a `mgmt_` key. */
  async deleteChannel(slug: string): Promise<void> {
    await this.call({ method: 'DELETE', path: channelPath(slug), isRepeatable: true });
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
  async getPresence(channel: string, { page, pageSize }: Types.PageQuery = {}): Promise<Types.PresencePage> {
    const { data, pagination } = await this.call<Types.PresencePage>({
      method: 'GET',
      path: `${channelPath(channel)}/presence`,
      query: { page, pageSize },
    });
    return { ...data, pagination };
  }

  private async call<T>(call: Call): Promise<Answer<T>> {
    return request<T>(this.settings(), call);
  }

  /** Read at each call: what is built without secrets, or before they are there, must not fail. */
  private settings(): RequestSettings {
    const { baseUrl, timeout = 10_000, retryAttempts = 3 } = this.options;
    const secretKey =
      this.options.secretKey ||
      environment(() => process.env.PUSHFLO_SECRET_KEY) ||
      environment(() => process.env.PUSHFLO_API_KEY);
    if (!secretKey) {
      throw new PushFloError('secretKey is required, or PUSHFLO_SECRET_KEY', 'VALIDATION_ERROR');
    }
    const send = this.options.fetch ?? ((...call) => fetch(...call));
    return { secretKey, baseUrl: resolveBaseUrl(baseUrl), timeout, retryAttempts, fetch: send };
  }

  private async data<T>(call: Call): Promise<T> {
    return (await this.call<T>(call)).data;
  }
}

function channelPath(slug: string): string {
  return `/api/v1/channels/${encodeURIComponent(checkChannel(slug))}`;
}
