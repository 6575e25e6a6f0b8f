/**
 * The connection to the server as a state machine: inputs in, effects out. It has no socket, no
 * timer and no clock of its own; the shell around it carries out the effects and comes back with
 * what happened.
 *
 * Invariants: at most one socket and one token request are wanted at a time; each timer name runs at
 * most once; in the phases `off` and `failed` no timer runs and no socket is open.
 */
import { type ErrorContext, errorOf, type PushFloError } from '../errors';
import { Channel, type ChannelEffect, type RecoverySettings } from './channel';
import { type ConnectionState, type Effect, type Input, type Timer, TIMERS } from './effects';
import { Publishes, settled } from './publishes';
import { Retry, type RetrySettings } from './retry';
import {
  type ClientFrame,
  CloseCode,
  type ErrorFrame,
  type PublishFrame,
  type Replay,
  type ServerFrame,
} from './wire';

/** Milliseconds. */
export interface SessionSettings extends RetrySettings, RecoverySettings {
  /** From the attempt to the server's greeting. */
  connectionTimeout: number;
  /** Between pings; 0 for none. */
  heartbeatInterval: number;
  /** The address, for sentences. */
  server: string;
}

/** What the session reads instead of having it. */
export interface Surroundings {
  /** Unix milliseconds. */
  now(): number;
  /** From 0 to 1. */
  random(): number;
}

type Phase =
  | 'off'
  /** For a token. */
  | 'waitingForToken'
  /** From the attempt to the server's greeting. */
  | 'opening'
  | 'open'
  /** Until the next attempt. */
  | 'waiting'
  | 'failed';

export class Session {
  private phase: Phase = 'off';
  private shown: ConnectionState = 'disconnected';
  private effects: Effect[] = [];
  private readonly channels = new Map<string, Channel>();
  private readonly publishes = new Publishes();
  private readonly retry: Retry;
  private resubscribes = 0;
  private unansweredPings = 0;
  /** What the server said before it closes for good. */
  private verdict?: PushFloError;
  /** The server's clock less ours. */
  private clockSkewMs = 0;

  constructor(
    private readonly settings: SessionSettings,
    private readonly surroundings: Surroundings,
  ) {
    this.retry = new Retry(settings, surroundings.random);
  }

  get state(): ConnectionState {
    return this.shown;
  }

  isLive(channel: string): boolean {
    return this.channels.get(channel)?.isLive ?? false;
  }

  apply(input: Input): Effect[] {
    switch (input.type) {
      case 'connect':
        this.connect();
        break;
      case 'disconnect':
        this.disconnect();
        break;
      case 'token':
        this.token(input.token);
        break;
      case 'tokenFailed':
        this.tokenFailed(input.error);
        break;
      case 'frame':
        this.frame(input.frame);
        break;
      case 'closed':
        this.closed(input.code, input.reason);
        break;
      case 'impossible':
        this.leave();
        this.fail(input.error);
        break;
      case 'timer':
        this.timer(input.timer);
        break;
      case 'wake':
        this.wake();
        break;
      case 'offline':
        if (this.phase === 'open') this.probe();
        break;
      case 'subscribe':
        this.subscribe(input);
        break;
      case 'unsubscribe':
        this.unsubscribe(input.channel);
        break;
      case 'publish':
        this.publish(input.frame);
        break;
    }
    const effects = this.effects;
    this.effects = [];
    return effects;
  }

  // The connection.

  private connect(): void {
    if (this.phase === 'off' || this.phase === 'failed') {
      this.retry.begin();
    } else if (this.phase !== 'waiting') return;
    this.attempt();
  }

  private attempt(): void {
    this.phase = 'waitingForToken';
    this.verdict = undefined;
    this.stop('retry');
    this.start('connect', this.settings.connectionTimeout);
    this.show('connecting');
    this.effects.push({ do: 'fetchToken' });
  }

  private token(token: string): void {
    if (this.phase === 'open') return this.send({ type: 'refresh', token });
    if (this.phase !== 'waitingForToken') return;
    this.phase = 'opening';
    this.effects.push({ do: 'open', token });
  }

  private tokenFailed(error: PushFloError): void {
    if (this.phase === 'waitingForToken') return this.ended(CloseCode.lost, '', error);
    this.effects.push({ do: 'error', error });
    if (this.phase === 'open') this.start('refresh', REFRESH_RETRY_MS);
  }

  private greeted(clientId: string, timestamp: number): void {
    this.phase = 'open';
    this.retry.accepted();
    this.unansweredPings = 0;
    this.clockSkewMs = timestamp - this.surroundings.now();
    this.stop('connect');
    this.start('settle', SETTLE_MS);
    if (this.settings.heartbeatInterval > 0) this.start('heartbeat', this.settings.heartbeatInterval);
    this.show('connected');
    this.effects.push({ do: 'connected', clientId, timestamp });
    for (const channel of this.channels.values()) this.proceed(channel);
    this.publishAgain();
  }

  private disconnect(): void {
    if (this.phase === 'off') return;
    const wasOpen = this.phase === 'open';
    this.leave();
    this.effects.push(...this.publishes.reject('the connection was closed'));
    this.phase = 'off';
    this.show('disconnected');
    if (wasOpen) this.tellDisconnected(CloseCode.normal, 'disconnect() was called', false);
  }

  private closed(code: number, reason: string): void {
    if (this.phase === 'opening' || this.phase === 'open') this.ended(code, reason);
  }

  /** The connection, or the attempt at one, came to an end that nobody here wanted. */
  private ended(code: number, reason: string, cause?: PushFloError): void {
    const wasOpen = this.phase === 'open';
    this.leave();
    if (code === CloseCode.tooLarge) this.effects.push(...this.publishes.refuseLargest());
    const lost = cause ?? this.lost(code, reason, wasOpen);
    const { error, waitMs } = this.retry.after(code, lost, reason, this.verdict);
    if (waitMs === undefined) this.fail(error);
    else if (waitMs > 0) {
      this.phase = 'waiting';
      this.start('retry', waitMs);
      this.show('connecting');
      if (!wasOpen) this.effects.push({ do: 'attemptFailed', error }, { do: 'error', error });
    } else this.attempt();
    if (wasOpen) this.tellDisconnected(code, reason, waitMs !== undefined);
  }

  private lost(code: number, reason: string, wasOpen: boolean): PushFloError {
    const why = `(${code})${reason && `: ${reason}`}`;
    if (wasOpen) return errorOf('CONNECTION_CLOSED', `the connection was lost ${why}`);
    const help = 'is PushFlo there, and does everything in between let WebSockets through?';
    return errorOf('CONNECTION_FAILED', `cannot connect to ${this.settings.server} ${why}; ${help}`);
  }

  private fail(error: PushFloError): void {
    this.phase = 'failed';
    this.effects.push(...this.publishes.reject(error.message));
    this.show('error', error);
    this.effects.push({ do: 'error', error });
  }

  /** Ends what belongs to a connection. */
  private leave(): void {
    for (const timer of TIMERS) this.stop(timer);
    this.effects.push({ do: 'close' });
    for (const channel of this.channels.values()) {
      channel.lost(this.surroundings.now());
      this.forgetIfIdle(channel);
    }
  }

  private tellDisconnected(code: number, reason: string, willReconnect: boolean): void {
    this.effects.push({ do: 'disconnected', code, reason, willReconnect });
  }

  // Signs of life.

  private wake(): void {
    if (this.phase === 'open') this.probe();
    else if (this.phase === 'waiting' && !this.retry.isAskedToWait) {
      this.retry.held();
      this.attempt();
    }
  }

  /** Asks for a sign of life within a short time. */
  private probe(): void {
    this.send({ type: 'ping' });
    this.start('probe', PROBE_MS);
  }

  private heartbeat(): void {
    if (this.unansweredPings >= PINGS_UNANSWERED_MAX) return this.ended(CloseCode.lost, 'no pong came');
    this.unansweredPings++;
    this.send({ type: 'ping' });
    this.start('heartbeat', this.settings.heartbeatInterval);
  }

  private timer(timer: Timer): void {
    switch (timer) {
      case 'connect': {
        const { server, connectionTimeout } = this.settings;
        const text = `no connection to ${server} within ${connectionTimeout} ms`;
        return this.ended(CloseCode.lost, '', errorOf('CONNECTION_TIMEOUT', text));
      }
      case 'retry':
        return this.attempt();
      case 'heartbeat':
        return this.heartbeat();
      case 'probe':
        return this.ended(CloseCode.lost, 'no pong came');
      case 'settle':
        return this.retry.held();
      case 'refresh':
        this.effects.push({ do: 'fetchToken' });
        return;
      case 'resubscribe':
        for (const channel of this.channels.values()) this.proceed(channel);
    }
  }

  // What the server says.

  private frame(frame: ServerFrame): void {
    if (this.phase === 'opening') {
      if (frame.type === 'connected') this.greeted(frame.clientId, frame.timestamp);
      else if (frame.type === 'error') this.error(frame);
      return;
    }
    if (this.phase !== 'open') return;
    this.unansweredPings = 0;
    this.stop('probe');
    switch (frame.type) {
      case 'message':
        return this.inChannel(frame, (channel) => channel.message(frame));
      case 'presence':
        return this.inChannel(frame, (channel) => channel.presence(frame));
      case 'subscribed':
        this.resubscribes = 0;
        return this.inChannel(frame, (channel) => channel.subscribed(frame));
      case 'unsubscribed':
        return this.inChannel(frame, (channel) => channel.unsubscribed());
      case 'published':
        this.effects.push(...this.publishes.answer(frame.ref, frame));
        return;
      case 'error':
        return this.error(frame);
      case 'token_expiring':
        if (this.settings.renewsTokens) this.effects.push({ do: 'fetchToken' });
        return;
      case 'refreshed':
        return this.stop('refresh');
    }
  }

  private error({ error: text, code, channel: name, ref, limit }: ErrorFrame): void {
    const context: ErrorContext = {};
    if (name !== undefined) context.channel = name;
    if (limit !== undefined) context.details = { [limit]: [text] };
    const error = errorOf(code, text, context);
    if (ref !== undefined) {
      this.effects.push(...this.publishes.answer(ref, error));
      return;
    }
    const channel = name === undefined ? undefined : this.channels.get(name);
    if (channel) {
      const isOfLate = channel.refused();
      if (isOfLate) {
        this.effects.push({ do: 'error', error });
        return this.proceed(channel);
      }
      if (!error.retryable) this.effects.push({ do: 'refused', channel: channel.name, error });
      else this.start('resubscribe', this.retry.backoffMs(this.resubscribes++));
      return this.forgetIfIdle(channel);
    }
    // A close follows these, and says whether they are the end.
    if (code === 'UNAUTHORIZED' || code === 'FORBIDDEN') this.verdict = error;
    else this.effects.push({ do: 'error', error });
  }

  // Channels.

  private subscribe({
    channel: name,
    replay,
    presence,
  }: {
    channel: string;
    replay?: Replay;
    presence?: boolean;
  }): void {
    let channel = this.channels.get(name);
    if (!channel) this.channels.set(name, (channel = new Channel(name, this.settings)));
    channel.want(replay);
    channel.wantsPresence ||= presence ?? false;
    this.proceed(channel);
  }

  private unsubscribe(name: string): void {
    const channel = this.channels.get(name);
    if (!channel) return;
    channel.unwant();
    this.proceed(channel);
  }

  private inChannel(
    { channel: name }: { channel: string },
    act: (channel: Channel) => ChannelEffect[],
  ): void {
    const channel = this.channels.get(name);
    if (!channel) return;
    this.carryOut(channel, act(channel));
    this.proceed(channel);
  }

  private proceed(channel: Channel): void {
    const nowMs = this.surroundings.now();
    if (this.phase === 'open') this.carryOut(channel, channel.proceed(nowMs, nowMs + this.clockSkewMs));
    this.forgetIfIdle(channel);
  }

  private carryOut(channel: Channel, effects: ChannelEffect[]): void {
    for (const effect of effects) {
      if ('send' in effect) this.send(effect.send);
      else this.effects.push({ do: 'tell', channel: channel.name, event: effect.tell });
    }
  }

  private forgetIfIdle(channel: Channel): void {
    if (channel.isIdle) this.channels.delete(channel.name);
  }

  private publish(frame: PublishFrame): void {
    if (this.phase === 'off' || this.phase === 'failed') {
      this.effects.push(settled(frame.ref, errorOf('NOT_CONNECTED', 'connect() before publish()')));
      return;
    }
    const refused = this.publishes.add(frame, this.surroundings.now());
    if (refused) this.effects.push(refused);
    else if (this.phase === 'open') this.send(frame);
  }

  private publishAgain(): void {
    for (const one of this.publishes.again(this.surroundings.now())) {
      if ('do' in one) this.effects.push(one);
      else this.send(one);
    }
  }

  private show(state: ConnectionState, error?: PushFloError): void {
    if (this.shown === state) return;
    this.shown = state;
    this.effects.push({ do: 'state', state, error });
  }

  private send(frame: ClientFrame): void {
    this.effects.push({ do: 'send', frame });
  }

  private start(timer: Timer, ms: number): void {
    this.effects.push({ do: 'start', timer, ms });
  }

  private stop(timer: Timer): void {
    this.effects.push({ do: 'stop', timer });
  }
}

/** A connection that lives this long holds, and the next loss is the first again. */
const SETTLE_MS = 5_000;
/** How long a sign of life may take that was asked for because something happened. */
const PROBE_MS = 5_000;
/** The ping after so many without any answer is not sent: the connection is dead. */
const PINGS_UNANSWERED_MAX = 2;
/** Between attempts to get a new token while the old one is good. */
const REFRESH_RETRY_MS = 5_000;
