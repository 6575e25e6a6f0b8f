/** What a session is told, and what it wants done. */
import type { PushFloError } from '../errors';
import type { ChannelEvent } from './channel';
import type { ClientFrame, PublishedFrame, PublishFrame, Replay, ServerFrame } from './wire';

/** What an application sees of the connection. */
export type ConnectionState =
  | 'disconnected'
  /** It tries, or waits before it tries again. */
  | 'connecting'
  | 'connected'
  /** It will not try again by itself: refused, or out of attempts. */
  | 'error';

/** All timers there are; each runs at most once at a time. */
export const TIMERS = ['connect', 'retry', 'heartbeat', 'probe', 'settle', 'refresh', 'resubscribe'] as const;

export type Timer = (typeof TIMERS)[number];

export type Input =
  | { type: 'connect' }
  | { type: 'disconnect' }
  /** The answer to `fetchToken`. */
  | { type: 'token'; token: string }
  | { type: 'tokenFailed'; error: PushFloError }
  | { type: 'frame'; frame: ServerFrame }
  | { type: 'closed'; code: number; reason: string }
  /** No socket can be made, now or later: its address is wrong, or the page may not use it. */
  | { type: 'impossible'; error: PushFloError }
  | { type: 'timer'; timer: Timer }
  /** The network came back, or the page is looked at again. */
  | { type: 'wake' }
  /** The network went away. */
  | { type: 'offline' }
  | { type: 'subscribe'; channel: string; replay?: Replay; presence?: boolean }
  | { type: 'unsubscribe'; channel: string }
  | { type: 'publish'; frame: PublishFrame };

export type Effect =
  /** Get a token; what an earlier one brings is not wanted any more. */
  | { do: 'fetchToken' }
  | { do: 'open'; token: string }
  /** Close the socket and listen to it no longer. Forget about a token under way. */
  | { do: 'close' }
  | { do: 'send'; frame: ClientFrame }
  /** Starts it anew where it runs. */
  | { do: 'start'; timer: Timer; ms: number }
  | { do: 'stop'; timer: Timer }
  | { do: 'state'; state: ConnectionState; error?: PushFloError }
  | { do: 'connected'; clientId: string; timestamp: number }
  | { do: 'disconnected'; code: number; reason: string; willReconnect: boolean }
  /** An attempt came to nothing; another one follows. */
  | { do: 'attemptFailed'; error: PushFloError }
  | { do: 'error'; error: PushFloError }
  | { do: 'tell'; channel: string; event: ChannelEvent }
  /** A subscription was refused. */
  | { do: 'refused'; channel: string; error: PushFloError }
  | PublishSettled;

/** A publish has its answer. */
export interface PublishSettled {
  do: 'published';
  ref: string;
  answer: PublishedFrame | PushFloError;
}
