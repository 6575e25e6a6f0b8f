/** The client: what an application calls, and the listeners that it gives. */
import { checkText } from './check';
import { type Connection, connectionOf, reasonOf } from './connection';
import type { ConnectionState } from './core/effects';
import type { Replay } from './core/wire';
import { Emitter, guarded } from './emitter';
import { errorOf, PushFloError, ValidationError } from './errors';
import { type Message, messageOf } from './message';
import { type ClientOptions, webSocketClass } from './options';
import { checkChannel } from './slug';
import { type Listener, listenerOf, type Subscription, type SubscriptionOptions } from './subscription';
import { uniqueId } from './unique';

/** What is known of a connection that was opened. */
export interface ConnectionInfo {
  /** The name the server gave it. */
  clientId: string;
  /** The server's time, in Unix milliseconds. */
  timestamp: number;
}

/** How a connection ended. */
export interface DisconnectInfo {
  /** The WebSocket close code. */
  code: number;
  reason: string;
  willReconnect: boolean;
}

/** The events of a client, with what their listeners get. */
export type ClientEvents = {
  connected: [info: ConnectionInfo];
  disconnected: [reason?: string, info?: DisconnectInfo];
  /** Every message of every channel that is subscribed. */
  message: [message: Message];
  error: [error: PushFloError];
};

/** What a publish became. */
export interface PublishReceipt {
  id: string;
  channel: string;
  offset: number;
  timestamp: number;
}

/** What `publish` takes: the article's form. */
export interface PublishRequest {
  channel: string;
  /** Default `message`. */
  event?: string | undefined;
  /** Any JSON. */
  data: unknown;
}

export class PushFloClient extends Emitter<ClientEvents> {
  private readonly connection: Connection;
  private readonly subscribers = new Map<string, Set<Listener>>();
  private readonly stateListeners = new Set<(state: ConnectionState) => void>();
  /** What `connect()` returned, until it is settled. */
  private connecting?: Promise<void>;
  private settle?: (error?: PushFloError) => void;
  private id: string | null = null;
  private isDestroyed = false;

  /**
   * @throws {AuthenticationError} where there is no key, or none that can be one.
   * @throws {ValidationError} for an option that cannot be.
   */
  constructor(private readonly options: ClientOptions) {
    super();
    const emitError = (error: PushFloError) => this.emit('error', error);
    this.connection = connectionOf(options, {
      state: (state, error) => {
        if (state !== 'connected') this.id = null;
        if (state === 'disconnected' || state === 'error') {
          this.settle?.(error ?? errorOf('NOT_CONNECTED', 'disconnect() was called'));
        }
        for (const listener of [...this.stateListeners]) guarded(listener, state);
      },
      connected: (clientId, timestamp) => {
        this.id = clientId;
        this.settle?.();
        this.emit('connected', { clientId, timestamp });
      },
      attemptFailed: (error) => this.settle?.(error),
      disconnected: (code, reason, willReconnect) =>
        this.emit('disconnected', reason || undefined, { code, reason, willReconnect }),
      error: (error) => {
        // The last one is not left unsaid where nobody listens.
        if (emitError(error) || this.connectionState !== 'error') return;
        console.error(`[pushflo] no more attempts to connect: ${error.message}`);
      },
      tell: (channel, event) => {
        const listeners = this.listenersOf(channel);
        // Before the listeners are told: one of them may subscribe anew.
        if (event.type === 'unsubscribed') this.subscribers.delete(channel);
        for (const listener of listeners) listener.tell(event);
        if (event.type === 'message') this.emit('message', messageOf(event.frame));
      },
      refused: (channel, error) => {
        for (const { options } of this.listenersOf(channel)) guarded(options.onError, error);
        emitError(error);
      },
    });
    if (options.autoConnect) this.connect();
  }

  get connectionState(): ConnectionState {
    return this.connection.state();
  }

  /** The name the server gave this connection; null while there is none. */
  get clientId(): string | null {
    return this.id;
  }

  /**
   * Connects, or goes on where that is under way. The promise resolves with the connection. It is
   * rejected when the first attempt fails, also where others follow by themselves, and may be left
   * alone: the same is told as `error`.
   */
  connect(): Promise<void> {
    this.checkAlive();
    if (this.connectionState === 'connected') return Promise.resolve();
    webSocketClass(this.options);
    const promise = (this.connecting ??= new Promise((resolve, reject) => {
      this.settle = (error) => {
        this.connecting = undefined;
        if (error) reject(error);
        else resolve();
      };
    }));
    // Nobody has to wait for it.
    promise.catch(() => {});
    this.connection.apply('connect');
    return promise;
  }

  /** Closes the connection. Subscriptions are kept, and come back with `connect()`. */
  disconnect(): void {
    this.connection.apply('disconnect');
  }

  /** Disconnects for good and forgets all listeners. */
  destroy(): void {
    this.disconnect();
    for (const channel of this.getSubscribedChannels()) this.unsubscribe(channel);
    this.removeAllListeners();
    this.stateListeners.clear();
    this.isDestroyed = true;
  }

  /** Calls `listener` with every new {@link connectionState}; what is returned takes it away again. */
  onConnectionChange(listener: (state: ConnectionState) => void): () => void {
    this.stateListeners.add(listener);
    return () => this.stateListeners.delete(listener);
  }

  /**
   * Subscribes, now or as soon as there is a connection. Several subscriptions to one channel share
   * one of the server's. @throws {ValidationError} for a name that no channel can have.
   */
  subscribe<T = any>(channel: string, options: SubscriptionOptions<T> = {}): Subscription {
    checkChannel(channel);
    if (options.replay !== undefined) checkReplay(options.replay);
    this.checkAlive();
    const listener = listenerOf(channel, options as SubscriptionOptions);
    const all = this.subscribers.get(channel) ?? new Set();
    const [companion] = all;
    this.subscribers.set(channel, all.add(listener));
    const { apply, isLive } = this.connection;
    apply('subscribe', channel, listener.replay, Boolean(options.onPresence));
    if (companion && isLive(channel)) {
      queueMicrotask(() => {
        if (!all.has(listener) || !isLive(channel)) return;
        listener.tell({ type: 'subscribed', replayed: 0 });
        companion.catchUp(listener);
      });
    }
    return { channel, unsubscribe: () => this.drop(listener) };
  }

  /** Ends all subscriptions of this client to a channel. */
  unsubscribe(channel: string): void {
    for (const listener of this.listenersOf(channel)) this.drop(listener);
  }

  /** The channels that there are subscribers of, whether or not there is a connection. */
  getSubscribedChannels(): string[] {
    return [...this.subscribers.keys()];
  }

  isSubscribed(channel: string): boolean {
    return this.subscribers.has(channel);
  }

  /**
   * Publishes over the connection, where the token grants it. While the connection is away it waits,
   * and is sent again when it returns, but never published twice.
   */
  publish(request: PublishRequest): Promise<PublishReceipt>;
  publish(channel: string, content: unknown, options?: { eventType?: string }): Promise<PublishReceipt>;
  publish(
    to: PublishRequest | string,
    content?: unknown,
    options: { eventType?: string } = {},
  ): Promise<PublishReceipt> {
    const { channel, event, data } =
      typeof to === 'string' ? { channel: to, event: options.eventType, data: content } : to;
    return new Promise((resolve, reject) => {
      checkChannel(channel);
      checkText('event', event);
      const ref = uniqueId();
      const frame = { type: 'publish', channel, event, data: snapshot(data), ref, id: ref } as const;
      this.connection.apply('publish', frame, (answer) => {
        if (answer instanceof PushFloError) return reject(answer);
        const { messageId: id, channel, offset, timestamp } = answer;
        resolve({ id, channel, offset, timestamp });
      });
    });
  }

  private checkAlive(): void {
    if (this.isDestroyed) throw errorOf('NOT_CONNECTED', 'the client was destroyed');
  }

  private drop(listener: Listener): void {
    const all = this.subscribers.get(listener.channel);
    if (!all?.delete(listener)) return;
    if (!all.size) {
      this.subscribers.delete(listener.channel);
      this.connection.apply('unsubscribe', listener.channel);
    }
    listener.tell({ type: 'unsubscribed' });
  }

  private listenersOf(channel: string): Listener[] {
    return [...(this.subscribers.get(channel) ?? [])];
  }
}

/** What `data` says now, whatever becomes of it while it waits. @throws for what JSON cannot say. */
function snapshot(data: unknown): unknown {
  try {
    return JSON.parse(JSON.stringify(data));
  } catch (cause) {
    throw new ValidationError(`what is published must be JSON: ${reasonOf(cause)}`, 'data', { cause });
  }
}

/** @throws {ValidationError} for what the server would refuse. */
function checkReplay(replay: Replay): void {
  const given: object = Object(replay);
  const [value] = Object.values(given);
  const isKnown = /^(last|since)$/.test(Object.keys(given).join());
  if (isKnown && Number.isSafeInteger(value) && value >= 0) return;
  throw new ValidationError('replay must be { last: a whole number } or { since: a time in ms }', 'replay');
}
