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

/** What happens to a session. */
export interface Inputs {
  connect(): void;
  disconnect(): void;
  /** The answer to `fetchToken`. */
  token(brought: { token: string }): void;
  tokenFailed(error: PushFloError): void;
  frame(frame: ServerFrame): void;
  closed(code: number, reason: string): void;
  /** No socket can be made, now or later: its address is wrong, or the page may not use it. */
  impossible(error: PushFloError): void;
  timer(timer: Timer): void;
  /** The network came back, or the page is looked at again. */
  wake(): void;
  /** The network went away. */
  offline(): void;
  subscribe(channel: string, replay?: Replay, presence?: boolean): void;
  unsubscribe(channel: string): void;
  /** `answered` is called once, whatever comes of it. */
  publish(frame: PublishFrame, answered: Answered): void;
}

/** Takes the answer to a publish. */
export type Answered = (answer: PublishedFrame | PushFloError) => void;

/** What a session wants done, in this order. */
export interface Effects {
  /** Get a token; what an earlier one brings is not wanted any more. */
  fetchToken(): void;
  open(credentials: { token: string }): void;
  /** Close the socket and listen to it no longer. Forget about a token under way. */
  close(): void;
  send(frame: ClientFrame): void;
  /** Starts it anew where it runs. */
  start(timer: Timer, ms: number): void;
  stop(timer: Timer): void;
  state(state: ConnectionState, error?: PushFloError): void;
  connected(clientId: string, timestamp: number): void;
  disconnected(code: number, reason: string, willReconnect: boolean): void;
  /** An attempt came to nothing; another one follows. */
  attemptFailed(error: PushFloError): void;
  error(error: PushFloError): void;
  tell(channel: string, event: ChannelEvent): void;
  /** A subscription was refused. */
  refused(channel: string, error: PushFloError): void;
}

/** One call of a method, as data. */
export type Call<Methods> = {
  [Name in keyof Methods]: Methods[Name] extends (...given: infer Given) => void
    ? [name: Name, ...given: Given]
    : never;
}[keyof Methods];

/** Makes a call. */
export function call<Methods>(of: Methods, [name, ...given]: Call<Methods>): void {
  (of[name] as (...given: unknown[]) => void)(...given);
}
