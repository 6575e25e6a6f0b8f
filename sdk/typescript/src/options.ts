/** What a client is made with, and what is assumed where nothing is said. Times are milliseconds. */
import type { SessionSettings } from './core/session';
import { AuthenticationError, ForbiddenError, ValidationError } from './errors';
import type { LogTarget } from './log';

/** The part of a WebSocket that is used; what browsers, Node 22, Deno, Bun, edge runtimes and `ws` have. */
export interface WebSocketLike {
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

/** What `getToken` brings: a connection token, or the answer of `createToken` that has one. */
export type Token = string | { token: string };

export interface ClientOptions {
  /** A `pub_` key. Not needed with `getToken`. */
  publishKey?: string | undefined;
  /**
   * Gets a connection token from your backend; called before each connect and when the token is
   * about to expire.
   */
  getToken?: (() => Token | Promise<Token>) | undefined;
  /**
   * Where PushFlo is, such as `https://push.example.com`; in a page also relative to it (`/`).
   * Otherwise `NEXT_PUBLIC_PUSHFLO_URL` or `PUSHFLO_URL` from the environment, or
   * `http://127.0.0.1:7070`.
   */
  baseUrl?: string | undefined;
  /** Connect at once instead of at `connect()`. Default false. */
  autoConnect?: boolean | undefined;
  /** Default true. */
  autoReconnect?: boolean | undefined;
  /** Attempts in a row, without a connection that held, until the state is `error`; default 0: no limit. */
  maxReconnectAttempts?: number | undefined;
  /** The first wait before connecting again; it doubles with each attempt. Default 1000. */
  reconnectDelay?: number | undefined;
  /** Default 30000. */
  maxReconnectDelay?: number | undefined;
  /** How long one attempt may take, with its token. Default 30000. */
  connectionTimeout?: number | undefined;
  /** Between pings; the connection is dropped after twice that without an answer. 0 for none. Default 25000. */
  heartbeatInterval?: number | undefined;
  /** Whether messages missed while there was no connection are asked for. Default true. */
  replayOnReconnect?: boolean | undefined;
  /** How far back that goes; `onGap` tells of what is older. Default one hour. */
  replayWindow?: number | undefined;
  /** Writes what happens to the console, or to a function. Keys and tokens are left out. */
  debug?: LogTarget | undefined;
  /** The WebSocket class, where there is no global one: Node before 22. */
  webSocket?: WebSocketConstructor | undefined;
}

/** The session's part of the options. @throws {ValidationError} for a time or count that is none. */
export function sessionSettings(options: ClientOptions, server: string): SessionSettings {
  const numbers = { ...NUMBERS };
  for (const name of Object.keys(NUMBERS) as (keyof typeof NUMBERS)[]) {
    numbers[name] = options[name] ?? NUMBERS[name];
    if (!(numbers[name] >= 0)) {
      throw new ValidationError(`${name} must be a number, 0 or more`, name);
    }
  }
  const { autoReconnect = true, replayOnReconnect = true, getToken } = options;
  return { ...numbers, autoReconnect, replayOnReconnect, renewsTokens: Boolean(getToken), server };
}

/** The options that are numbers, with their defaults. */
const NUMBERS = {
  maxReconnectAttempts: 0,
  reconnectDelay: 1_000,
  maxReconnectDelay: 30_000,
  connectionTimeout: 30_000,
  heartbeatInterval: 25_000,
  replayWindow: 3_600_000,
};

/**
 * The function that gets the token for a connection.
 * @throws {AuthenticationError} where there is no key, or none that can be one.
 */
export function tokenSource({ publishKey, getToken }: ClientOptions): () => Promise<string> {
  if (typeof document === 'object' && /^(sec|mgmt)_/.test(publishKey ?? '')) {
    throw new ForbiddenError('a secret key must not be in a page: everybody can read it there');
  }
  if (getToken) {
    return async () => {
      const brought = await getToken();
      const token = typeof brought === 'string' ? brought : brought?.token;
      // An error page is none, and a server that is asked with it would say no for good.
      if (typeof token === 'string' && /^[\w.~+/=-]+$/.test(token)) return token;
      throw new Error('what it brought is no token');
    };
  }
  if (!publishKey) {
    const text =
      'Publish key is required: give publishKey or getToken, such as NEXT_PUBLIC_PUSHFLO_PUBLISH_KEY';
    throw new AuthenticationError(text, 'MISSING_PUBLISH_KEY');
  }
  if (!/^(pub|sec|mgmt)_/.test(publishKey)) throw AuthenticationError.invalidKey('publish');
  return async () => publishKey;
}

/** The WebSocket class to use. @throws {ValidationError} where there is none. */
export function webSocketClass({ webSocket }: ClientOptions): WebSocketConstructor {
  const found = webSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
  if (found) return found;
  throw new ValidationError(
    'this runtime has no WebSocket: give one as webSocket, such as that of ws',
    'webSocket',
  );
}
