/** Waits between attempts: exponential, with jitter, so that many clients do not return together. */

/** How waits grow. Milliseconds. */
export interface Backoff {
  /** The first wait, before jitter. */
  reconnectDelay: number;
  /** The longest wait, before jitter. */
  maxReconnectDelay: number;
}

/** The wait before an attempt, counted from 0: between half and the whole of what it has grown to. */
export function backoffMs(
  attempt: number,
  { reconnectDelay, maxReconnectDelay }: Backoff,
  random: () => number,
): number {
  return jittered(Math.min(maxReconnectDelay, reconnectDelay * 2 ** Math.min(attempt, 30)), random);
}

/** Between half and the whole of `ms`. */
export function jittered(ms: number, random: () => number): number {
  return Math.round(ms * (0.5 + random() / 2));
}
