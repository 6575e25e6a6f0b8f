/**
 * The frames of the WebSocket, as the server's contract has them: one JSON object each. Times are
 * Unix milliseconds.
 */

/** A place in a channel's log. */
export interface StreamPosition {
  /** Names this incarnation of the log; changes only when the log was lost or deleted. */
  epoch: string;
  /** The last message seen there. */
  offset: number;
}

/** What a first subscription wants of the past: the last so many, or all since a time in ms. */
export type Replay = { last: number } | { since: number };

/** Someone who is subscribed to a channel with presence. */
export interface Member {
  clientId: string;
  /** What the member's token says of it. */
  data?: unknown;
  /**
   * `false` where nobody vouched for the client id: its holder chose it, with a publish key that
   * everybody has. Absent for ids that the app's backend, or the server, gave.
   */
  verified?: false;
}

/** What a client says. */
export type ClientFrame =
  | { type: 'subscribe'; channel: string; recover?: StreamPosition; replay?: Replay; presence?: true }
  | { type: 'unsubscribe'; channel: string }
  | { type: 'ping' }
  | { type: 'refresh'; token: string }
  | PublishFrame;

/** A publish by a client whose token grants it. `id` is its idempotency key. */
export interface PublishFrame {
  type: 'publish';
  channel: string;
  event?: string;
  data: unknown;
  ref: string;
  id: string;
}

export interface MessageFrame {
  type: 'message';
  channel: string;
  messageId: string;
  eventType: string;
  clientId?: string | null;
  data: unknown;
  timestamp: number;
  offset: number;
  /** The offset before this one, where that is not `offset - 1`. */
  prev?: number;
  /** Only where it is not the one in `subscribed`. */
  epoch?: string;
}

export interface SubscribedFrame extends StreamPosition {
  type: 'subscribed';
  channel: string;
  /** Whether everything asked for follows; only where something was asked for. */
  recovered?: boolean;
  /** How many messages of the past follow. */
  replayed?: number;
}

/** All members, or who came and went since the last one. */
export interface PresenceFrame {
  type: 'presence';
  channel: string;
  count: number;
  members?: Member[];
  joined?: Member[];
  left?: Member[];
}

export interface ErrorFrame {
  type: 'error';
  error: string;
  code: string;
  channel?: string;
  ref?: string;
  /** The limit that was reached, where it was one. */
  limit?: string;
}

export interface PublishedFrame {
  type: 'published';
  channel: string;
  messageId: string;
  offset: number;
  timestamp: number;
  ref?: string;
}

/** What the server says. Types that are not here are ignored. */
export type ServerFrame =
  | { type: 'connected'; clientId: string; timestamp: number }
  | SubscribedFrame
  | { type: 'unsubscribed'; channel: string }
  | MessageFrame
  | PresenceFrame
  | ErrorFrame
  | PublishedFrame
  | { type: 'pong' }
  | { type: 'token_expiring'; expiresAt: number }
  | { type: 'refreshed'; expiresAt: number };

/** Why the server closes a connection. */
export const enum CloseCode {
  normal = 1000,
  /** What a browser tells of a connection that was lost without a word. */
  lost = 1006,
  /** A message was larger than the server takes (RFC 6455 section 7.4.1). */
  tooLarge = 1009,
  unauthorized = 4001,
  forbidden = 4003,
  tooSlow = 4008,
  overQuota = 4029,
}
