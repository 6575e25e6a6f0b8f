/** Whether to connect again after a connection has ended, and when. */
import { errorOf, type PushFloError } from '../errors';
import { CloseCode } from './wire';

/** Milliseconds. */
export interface RetrySettings {
  autoReconnect: boolean;
  /** Attempts in a row without a connection that holds; 0 for no limit. */
  maxReconnectAttempts: number;
  /** The first wait, before jitter. */
  reconnectDelay: number;
  /** The longest wait, before jitter. */
  maxReconnectDelay: number;
  /** Whether a new token can be had. */
  renewsTokens: boolean;
}

/** What follows the end of a connection. */
export interface End {
  error: PushFloError;
  /** Until the next attempt; absent where there is none. */
  waitMs?: number;
}

export type Retry = ReturnType<typeof retryOf>;

/** `random` gives numbers from 0 to 1. */
export function retryOf(settings: RetrySettings, random: () => number) {
  const { autoReconnect, maxReconnectAttempts, renewsTokens, reconnectDelay, maxReconnectDelay } = settings;
  /** Attempts since a connection held. */
  let attempts = 0;
  /** The last token was refused, and no other has been accepted since. */
  let isTokenRefused = false;
  let isAskedToWait = false;

  /**
   * The wait before an attempt, counted from 0: exponential, and with jitter, so that many clients do
   * not come back together.
   */
  function backoffMs(attempt: number): number {
    return jittered(Math.min(maxReconnectDelay, reconnectDelay * 2 ** Math.min(attempt, 30)), random);
  }

  return {
    backoffMs,

    /** A wait that the server asked for; the network coming back does not cut it short. */
    isAskedToWait: () => isAskedToWait,

    /** Somebody asks for a connection: what was before does not count. */
    begin(): void {
      attempts = 0;
      isTokenRefused = false;
    },

    /** The server greeted. */
    accepted(): void {
      isTokenRefused = false;
    },

    /** The connection holds, or there is a reason to hope anew. */
    held(): void {
      attempts = 0;
    },

    /**
     * A connection has ended with a code, or an attempt at one: why, and how many milliseconds to wait
     * before the next attempt, if there is one. `verdict` is what the server said before.
     */
    after(code: number, lost: PushFloError, reason: string, verdict?: PushFloError): End {
      isAskedToWait = false;
      if (code === CloseCode.forbidden) {
        return { error: verdict ?? errorOf('FORBIDDEN', reason || 'refused') };
      }
      let error = lost;
      if (code === CloseCode.unauthorized) {
        error = verdict ?? errorOf('UNAUTHORIZED', reason || 'the token was refused');
        if (!renewsTokens || isTokenRefused) return { error };
        isTokenRefused = true;
      }
      if (!autoReconnect) return { error };
      const attempt = attempts++;
      if (maxReconnectAttempts > 0 && attempt >= maxReconnectAttempts) {
        const text = `gave up after ${attempt} attempts to reconnect: ${error.message}`;
        return { error: errorOf('MAX_RECONNECT_ATTEMPTS', text, { cause: error }) };
      }
      const askedMs = retryAfterMs(reason);
      isAskedToWait = askedMs !== undefined || code === CloseCode.overQuota;
      if (askedMs !== undefined) return { error, waitMs: askedMs };
      if (code === CloseCode.overQuota) return { error, waitMs: jittered(QUOTA_RETRY_MS, random) };
      const isUrgent = code === CloseCode.tooSlow || code === CloseCode.unauthorized;
      return { error, waitMs: isUrgent && attempt === 0 ? 0 : backoffMs(attempt) };
    },
  };
}

/** Between half and the whole of `ms`. */
function jittered(ms: number, random: () => number): number {
  return Math.round(ms * (0.5 + random() / 2));
}

/** The wait a server asks for in the reason of its close, at most {@link RETRY_AFTER_MAX_MS}. */
function retryAfterMs(reason: string): number | undefined {
  const found = /"retryAfterMs"\s*:\s*(\d+)/.exec(reason);
  return found ? Math.min(Number(found[1]), RETRY_AFTER_MAX_MS) : undefined;
}

/** Before coming back to a server whose plan had no room. */
const QUOTA_RETRY_MS = 60_000;
const RETRY_AFTER_MAX_MS = 300_000;
