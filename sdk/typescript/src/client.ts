/**
 * The client: the shell around {@link Session} that owns the socket, the timers and the listeners,
 * carries out what the session wants and tells it what happened. What to do is decided there.
 */
import { resolveBaseUrl, socketUrl } from './address';
import { checkText } from './check';
import type { ConnectionState, Effect, Input, Timer } from './core/effects';
import { Session } from './core/session';
import { CloseCode, type PublishedFrame, type Replay } from './core/wire';
import { Emitter, guarded } from './emitter';
import { PushFloError, ValidationError, errorOf } from './errors';
import { log, shown } from './log';
import { type Message, messageOf } from './message';
import {
  type ClientOptions,
  sessionSettings,
  tokenSource,
  type WebSocketLike,
  webSocketClass,
} from './options';
import { checkChannel } from './slug';
import { Listener, type SubscriptionOptions, type Subscription } from './subscription';
import { uniqueId } from './unique';
import { watchWake } from './wake';

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
  private readonly session: Session;
  private readonly baseUrl: string;
  private readonly fetchToken: () => Promise<string>;
  private readonly subscribers = new Map<string, Set<Listener>>();
  private readonly stateListeners = new Set<(state: ConnectionState) => void>();
  private readonly timers = new Map<Timer, ReturnType<typeof setTimeout>>();
  private readonly publishes = new Map<
    string,
    { resolve(receipt: PublishReceipt): void; reject(error: PushFloError): void }
  >();
  /** Effects that are to be carried out, in order, also those that come up meanwhile. */
  private readonly effects: Effect[] = [];
  private isCarryingOut = false;
  private socket?: WebSocketLike;
  /** Counts token requests; the answer to an earlier one is dropped. */
  private tokenRequest = 0;
  private connecting?: { promise: Promise<void>; resolve(): void; reject(error: PushFloError): void };
  private unwatchWake?: () => void;
  private id: string | null = null;
  private isDestroyed = false;

  /**
   * @throws {AuthenticationError} where there is no key, or none that can be one.
   * @throws {ValidationError} for an option that cannot be.
   */
  constructor(private readonly options: ClientOptions) {
    super();
    this.baseUrl = resolveBaseUrl(options.baseUrl);
    this.fetchToken = tokenSource(options);
    this.session = new Session(sessionSettings(options, this.baseUrl), {
      now: Date.now,
      random: Math.random,
    });
    if (options.autoConnect) this.connect();
  }

  get connectionState(): ConnectionState {
    return this.session.state;
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
    if (this.isDestroyed) throw errorOf('NOT_CONNECTED', 'the client was destroyed');
    if (this.connectionState === 'connected') return Promise.resolve();
    webSocketClass(this.options);
    if (!this.connecting) {
      let settle!: { resolve(): void; reject(error: PushFloError): void };
      const promise = new Promise<void>((resolve, reject) => (settle = { resolve, reject }));
      // Nobody has to wait for it.
      promise.catch(() => {});
      this.connecting = { promise, ...settle };
    }
    const { promise } = this.connecting;
    this.apply({ type: 'connect' });
    return promise;
  }

  /** Closes the connection. Subscriptions are kept, and come back with `connect()`. */
  disconnect(): void {
    this.apply({ type: 'disconnect' });
  }

  /** Disconnects for good and forgets all listeners. */
  destroy(): void {
    this.disconnect();
    for (const all of [...this.subscribers.values()]) for (const listener of [...all]) this.drop(listener);
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
    checkReplay(options.replay);
    if (this.isDestroyed) throw errorOf('NOT_CONNECTED', 'the client was destroyed');
    const listener = new Listener(channel, options as SubscriptionOptions);
    const all = this.subscribers.get(channel) ?? new Set();
    const [companion] = all;
    this.subscribers.set(channel, all.add(listener));
    this.apply({
      type: 'subscribe',
      channel,
      replay: listener.replay,
      presence: Boolean(options.onPresence),
    });
    if (companion && this.session.isLive(channel)) {
      queueMicrotask(() => {
        if (!all.has(listener) || !this.session.isLive(channel)) return;
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
      this.publishes.set(ref, { resolve, reject });
      this.apply({ type: 'publish', frame });
    });
  }

  private drop(listener: Listener): void {
    const all = this.subscribers.get(listener.channel);
    if (!all?.delete(listener)) return;
    if (!all.size) {
      this.subscribers.delete(listener.channel);
      this.apply({ type: 'unsubscribe', channel: listener.channel });
    }
    listener.tell({ type: 'unsubscribed' });
  }

  /** Tells the session, and carries out what it wants: after what is being carried out already. */
  private apply(input: Input): void {
    this.log('in', input);
    this.effects.push(...this.session.apply(input));
    if (this.isCarryingOut) return;
    this.isCarryingOut = true;
    for (let effect = this.effects.shift(); effect; effect = this.effects.shift()) {
      this.log('out', effect);
      this.carryOut(effect);
    }
    this.isCarryingOut = false;
  }

  private carryOut(effect: Effect): void {
    switch (effect.do) {
      case 'fetchToken':
        return this.requestToken();
      case 'open':
        return this.open(effect.token);
      case 'close':
        return this.close();
      case 'send':
        return this.send(JSON.stringify(effect.frame));
      case 'start':
        return this.start(effect.timer, effect.ms);
      case 'stop':
        return this.stop(effect.timer);
      case 'state':
        return this.stateChanged(effect.state, effect.error);
      case 'connected':
        this.id = effect.clientId;
        this.connecting?.resolve();
        this.connecting = undefined;
        this.emit('connected', { clientId: effect.clientId, timestamp: effect.timestamp });
        return;
      case 'attemptFailed':
        this.connecting?.reject(effect.error);
        this.connecting = undefined;
        return;
      case 'disconnected': {
        const { code, reason, willReconnect } = effect;
        this.emit('disconnected', reason || undefined, { code, reason, willReconnect });
        return;
      }
      case 'error':
        return this.report(effect.error);
      case 'tell':
        return this.tell(effect.channel, effect.event);
      case 'refused':
        for (const { options } of this.listenersOf(effect.channel)) guarded(options.onError, effect.error);
        this.emit('error', effect.error);
        return;
      case 'published':
        return this.published(effect.ref, effect.answer);
    }
  }

  private tell(channel: string, event: (Effect & { do: 'tell' })['event']): void {
    const listeners = this.listenersOf(channel);
    // Before the listeners are told: one of them may subscribe anew.
    if (event.type === 'unsubscribed') this.subscribers.delete(channel);
    for (const listener of listeners) listener.tell(event);
    if (event.type === 'message') this.emit('message', messageOf(event.frame));
  }

  private listenersOf(channel: string): Listener[] {
    return [...(this.subscribers.get(channel) ?? [])];
  }

  private stateChanged(state: ConnectionState, error?: PushFloError): void {
    const isOver = state === 'disconnected' || state === 'error';
    if (state !== 'connected') this.id = null;
    if (isOver) {
      this.unwatchWake?.();
      this.unwatchWake = undefined;
      this.connecting?.reject(error ?? errorOf('NOT_CONNECTED', 'disconnect() was called'));
      this.connecting = undefined;
    } else {
      this.unwatchWake ??= watchWake(
        () => this.apply({ type: 'wake' }),
        () => this.apply({ type: 'offline' }),
      );
    }
    for (const listener of [...this.stateListeners]) guarded(listener, state);
  }

  /** Tells of an error. The last one is not left unsaid where nobody listens. */
  private report(error: PushFloError): void {
    const isHeard = this.emit('error', error);
    if (isHeard || this.connectionState !== 'error') return;
    console.error(`[pushflo] there is no connection, and none will be tried: ${error.message}`);
  }

  private requestToken(): void {
    const request = ++this.tokenRequest;
    const answer = (input: Input) => {
      if (request === this.tokenRequest) this.apply(input);
    };
    this.fetchToken().then(
      (token) => answer({ type: 'token', token }),
      (cause) => {
        const text = `getToken failed: ${reasonOf(cause)}`;
        answer({ type: 'tokenFailed', error: errorOf('TOKEN_ERROR', text, { cause }) });
      },
    );
  }

  private open(token: string): void {
    const socket = this.makeSocket(token);
    if (!socket) return;
    this.socket = socket;
    socket.onmessage = ({ data }) => {
      const frame = parse(data);
      if (frame) this.apply({ type: 'frame', frame });
    };
    socket.onclose = ({ code, reason }) => {
      this.socket = undefined;
      this.apply({ type: 'closed', code: code ?? CloseCode.lost, reason: String(reason ?? '') });
    };
    // A close follows. Without a listener, Node's `ws` would throw.
    socket.onerror = () => {};
  }

  private makeSocket(token: string): WebSocketLike | undefined {
    try {
      return new (webSocketClass(this.options))(socketUrl(this.baseUrl, token));
    } catch (cause) {
      const reason = reasonOf(cause).replaceAll(token, '…').replaceAll(encodeURIComponent(token), '…');
      const text = `no connection can be made to ${this.baseUrl}: ${reason}`;
      this.apply({ type: 'impossible', error: errorOf('VALIDATION_ERROR', text, { cause }) });
      return undefined;
    }
  }

  private close(): void {
    this.tokenRequest++;
    const socket = this.socket;
    if (!socket) return;
    this.socket = undefined;
    socket.onmessage = socket.onclose = null;
    socket.close(CloseCode.normal);
  }

  private send(text: string): void {
    // A socket that is closing throws in some runtimes; its close comes as an event of its own.
    try {
      this.socket?.send(text);
    } catch (error) {
      this.log('send failed', error);
    }
  }

  private start(timer: Timer, ms: number): void {
    this.stop(timer);
    const fire = () => {
      this.timers.delete(timer);
      this.apply({ type: 'timer', timer });
    };
    this.timers.set(timer, setTimeout(fire, Math.min(ms, TIMER_MAX_MS)));
  }

  private stop(timer: Timer): void {
    clearTimeout(this.timers.get(timer));
    this.timers.delete(timer);
  }

  private published(ref: string, answer: PublishedFrame | PushFloError): void {
    const waiting = this.publishes.get(ref);
    this.publishes.delete(ref);
    if (answer instanceof PushFloError) return waiting?.reject(answer);
    const { messageId: id, channel, offset, timestamp } = answer;
    waiting?.resolve({ id, channel, offset, timestamp });
  }

  private log(what: string, detail: unknown): void {
    const { debug } = this.options;
    if (debug) log(debug, `${what} ${shown(detail)}`);
  }
}

/** The frame in a text message; what is none is ignored, as a later server may say more. */
function parse(data: unknown): (Input & { type: 'frame' })['frame'] | undefined {
  try {
    return typeof data === 'string' ? JSON.parse(data) : undefined;
  } catch {
    return undefined;
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What `data` says now, whatever becomes of it while it waits. @throws for what JSON cannot say. */
function snapshot(data: unknown): unknown {
  let text: string | undefined;
  try {
    text = JSON.stringify(data);
  } catch (cause) {
    throw new ValidationError(`what is published must be JSON: ${reasonOf(cause)}`, 'data', { cause });
  }
  if (text === undefined) throw new ValidationError('what is published must be JSON', 'data');
  return JSON.parse(text);
}

/** @throws {ValidationError} for what the server would refuse. */
function checkReplay(replay: Replay | undefined): void {
  if (replay === undefined) return;
  const [[name, value] = [], ...others] = Object.entries<unknown>(replay ?? {});
  const isKnown = (name === 'last' || name === 'since') && !others.length;
  if (isKnown && Number.isSafeInteger(value) && (value as number) >= 0) return;
  throw new ValidationError('replay must be { last: a whole number } or { since: a time in ms }', 'replay');
}

/** The longest wait a timer can have. */
const TIMER_MAX_MS = 2 ** 31 - 1;
