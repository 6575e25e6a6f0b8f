/**
 * The connection to the server as a state machine: inputs in, effects out. It has no socket, no
 * timer and no clock of its own; the shell around it carries out the effects and comes back with
 * what happened.
 *
 * Invariants: at most one socket and one token request are wanted at a time; each timer name runs at
 * most once; in the phases `off` and `failed` no timer runs and no socket is open.
 */
import { type ErrorContext, errorOf, type PushFloError } from '../errors';
import { type Channel, channelOf, type RecoverySettings } from './channel';
import { type Call, type ConnectionState, type Effects, type Inputs, TIMERS } from './effects';
import { publishesOf } from './publishes';
import { retryOf, type RetrySettings } from './retry';
import { CloseCode, type ErrorFrame } from './wire';

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
  /** Takes what is to be done; that comes back, if at all, when the input is dealt with. */
  out(...effect: Call<Effects>): void;
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

export interface Session extends Inputs {
  state(): ConnectionState;
  isLive(channel: string): boolean;
}

export function sessionOf(settings: SessionSettings, { now, random, out }: Surroundings): Session {
  let phase: Phase = 'off';
  let shown: ConnectionState = 'disconnected';
  const channels = new Map<string, Channel>();
  const publishes = publishesOf();
  const retry = retryOf(settings, random);
  let resubscribes = 0;
  let unansweredPings = 0;
  /** What the server said before it closes for good. */
  let verdict: PushFloError | undefined;
  /** The server's clock less ours. */
  let clockSkewMs = 0;

  // The connection.

  function attempt(): void {
    phase = 'waitingForToken';
    verdict = undefined;
    out('stop', 'retry');
    out('start', 'connect', settings.connectionTimeout);
    show('connecting');
    out('fetchToken');
  }

  function greeted(clientId: string, timestamp: number): void {
    phase = 'open';
    retry.accepted();
    unansweredPings = 0;
    clockSkewMs = timestamp - now();
    out('stop', 'connect');
    out('start', 'settle', SETTLE_MS);
    if (settings.heartbeatInterval > 0) out('start', 'heartbeat', settings.heartbeatInterval);
    show('connected');
    out('connected', clientId, timestamp);
    channels.forEach(proceed);
    publishAgain();
  }

  /** What waits for its answer is sent again, or has waited for too long. */
  function publishAgain(): void {
    for (const frame of publishes.again(now())) out('send', frame);
  }

  /** The connection, or the attempt at one, came to an end that nobody here wanted. */
  function ended(code: number, reason: string, cause?: PushFloError): void {
    const wasOpen = phase === 'open';
    leave();
    if (code === CloseCode.tooLarge) publishes.refuseLargest();
    const { error, waitMs } = retry.after(code, cause ?? lost(code, reason, wasOpen), reason, verdict);
    if (waitMs === undefined) fail(error);
    else if (waitMs > 0) {
      phase = 'waiting';
      out('start', 'retry', waitMs);
      show('connecting');
      if (!wasOpen) {
        out('attemptFailed', error);
        out('error', error);
      }
    } else attempt();
    if (wasOpen) out('disconnected', code, reason, waitMs !== undefined);
  }

  function lost(code: number, reason: string, wasOpen: boolean): PushFloError {
    const why = `(${code})${reason && `: ${reason}`}`;
    if (wasOpen) return errorOf('CONNECTION_CLOSED', `the connection was lost ${why}`);
    const help = 'is PushFlo there, and does everything in between let WebSockets through?';
    return errorOf('CONNECTION_FAILED', `cannot connect to ${settings.server} ${why}; ${help}`);
  }

  function fail(error: PushFloError): void {
    phase = 'failed';
    publishes.reject(error.message);
    show('error', error);
    out('error', error);
  }

  /** Ends what belongs to a connection. */
  function leave(): void {
    for (const timer of TIMERS) out('stop', timer);
    out('close');
    for (const channel of channels.values()) {
      channel.lost(now());
      forgetIfIdle(channel);
    }
  }

  function show(state: ConnectionState, error?: PushFloError): void {
    if (shown === state) return;
    shown = state;
    out('state', state, error);
  }

  // Signs of life.

  function ping(): void {
    out('send', { type: 'ping' });
  }

  function heartbeat(): void {
    if (unansweredPings++ >= PINGS_UNANSWERED_MAX) return dead();
    ping();
    out('start', 'heartbeat', settings.heartbeatInterval);
  }

  function dead(): void {
    ended(CloseCode.lost, 'no pong came');
  }

  /** Asks for a sign of life within a short time. */
  function probe(): void {
    ping();
    out('start', 'probe', PROBE_MS);
  }

  // What the server says.

  function error({ error: text, code, channel: name, ref, limit }: ErrorFrame): void {
    const context: ErrorContext = {};
    if (name !== undefined) context.channel = name;
    if (limit !== undefined) context.details = { [limit]: [text] };
    const error = errorOf(code, text, context);
    if (ref !== undefined) {
      // It may have been published. With the same id it is not published twice.
      if (code === 'UNKNOWN_OUTCOME') return out('start', 'resubscribe', retry.backoffMs(resubscribes++));
      return publishes.answer(ref, error);
    }
    const channel = name === undefined ? undefined : channels.get(name);
    if (channel) {
      const isOfLate = channel.refused();
      if (isOfLate) {
        out('error', error);
        return proceed(channel);
      }
      if (!error.retryable) out('refused', channel.name, error);
      else out('start', 'resubscribe', retry.backoffMs(resubscribes++));
      return forgetIfIdle(channel);
    }
    // A close follows these, and says whether they are the end.
    if (code === 'UNAUTHORIZED' || code === 'FORBIDDEN') verdict = error;
    else out('error', error);
  }

  // Channels.

  function proceed(channel: Channel): void {
    const nowMs = now();
    if (phase === 'open') channel.proceed(nowMs, nowMs + clockSkewMs);
    forgetIfIdle(channel);
  }

  function forgetIfIdle(channel: Channel): void {
    if (channel.isIdle()) channels.delete(channel.name);
  }

  return {
    state: () => shown,

    isLive: (name) => channels.get(name)?.isLive() ?? false,

    connect() {
      if (phase === 'off' || phase === 'failed') retry.begin();
      else if (phase !== 'waiting') return;
      attempt();
    },

    disconnect() {
      if (phase === 'off') return;
      const wasOpen = phase === 'open';
      leave();
      publishes.reject('disconnect() was called');
      phase = 'off';
      show('disconnected');
      if (wasOpen) out('disconnected', CloseCode.normal, 'disconnect() was called', false);
    },

    token({ token }) {
      if (phase === 'open') return out('send', { type: 'refresh', token });
      if (phase !== 'waitingForToken') return;
      phase = 'opening';
      out('open', { token });
    },

    tokenFailed(error) {
      if (phase === 'waitingForToken') return ended(CloseCode.lost, '', error);
      out('error', error);
      if (phase === 'open') out('start', 'refresh', REFRESH_RETRY_MS);
    },

    closed(code, reason) {
      if (phase === 'opening' || phase === 'open') ended(code, reason);
    },

    impossible(error) {
      leave();
      fail(error);
    },

    wake() {
      if (phase === 'open') probe();
      else if (phase === 'waiting' && !retry.isAskedToWait()) {
        retry.held();
        attempt();
      }
    },

    offline() {
      if (phase === 'open') probe();
    },

    timer(timer) {
      switch (timer) {
        case 'connect': {
          const text = `no connection to ${settings.server} within ${settings.connectionTimeout} ms`;
          return ended(CloseCode.lost, '', errorOf('CONNECTION_TIMEOUT', text));
        }
        case 'retry':
          return attempt();
        case 'heartbeat':
          return heartbeat();
        case 'probe':
          return dead();
        case 'settle':
          return retry.held();
        case 'refresh':
          return out('fetchToken');
        case 'resubscribe':
          channels.forEach(proceed);
          publishAgain();
      }
    },

    frame(frame) {
      if (phase === 'opening') {
        if (frame.type === 'connected') greeted(frame.clientId, frame.timestamp);
        else if (frame.type === 'error') error(frame);
        return;
      }
      if (phase !== 'open') return;
      unansweredPings = 0;
      out('stop', 'probe');
      const channel = 'channel' in frame ? channels.get(frame.channel!) : undefined;
      switch (frame.type) {
        case 'message':
          channel?.message(frame);
          break;
        case 'presence':
          channel?.presence(frame);
          break;
        case 'subscribed':
          resubscribes = 0;
          channel?.subscribed(frame);
          break;
        case 'unsubscribed':
          channel?.unsubscribed();
          break;
        case 'published':
          if (frame.ref !== undefined) publishes.answer(frame.ref, frame);
          return;
        case 'error':
          return error(frame);
        case 'token_expiring':
          if (settings.renewsTokens) out('fetchToken');
          return;
        case 'refreshed':
          return out('stop', 'refresh');
      }
      if (channel) proceed(channel);
    },

    subscribe(name, replay, presence) {
      let channel = channels.get(name);
      if (!channel) {
        channel = channelOf(name, settings, {
          send: (frame) => out('send', frame),
          tell: (event) => out('tell', name, event),
        });
        channels.set(name, channel);
      }
      channel.want(replay, presence);
      proceed(channel);
    },

    unsubscribe(name) {
      const channel = channels.get(name);
      if (!channel) return;
      channel.unwant();
      proceed(channel);
    },

    publish(frame, answered) {
      if (phase === 'off' || phase === 'failed') {
        return answered(errorOf('NOT_CONNECTED', 'connect() before publish()'));
      }
      if (publishes.add(frame, now(), answered) && phase === 'open') out('send', frame);
    },
  };
}

/** A connection that lives this long holds, and the next loss is the first again. */
const SETTLE_MS = 5_000;
/** How long a sign of life may take that was asked for because something happened. */
const PROBE_MS = 5_000;
/** The ping after so many without any answer is not sent: the connection is dead. */
const PINGS_UNANSWERED_MAX = 2;
/** Between attempts to get a new token while the old one is good. */
const REFRESH_RETRY_MS = 5_000;
