/**
 * Publishes that wait for their answer. They are sent again on the next connection: the id of each
 * keeps it from being published twice, as long as the server remembers it.
 */
import { errorOf } from '../errors';
import type { Answered } from './effects';
import type { PublishFrame } from './wire';

export type Publishes = ReturnType<typeof publishesOf>;

export function publishesOf() {
  const pending = new Map<string, { frame: PublishFrame; sinceMs: number; answered: Answered }>();

  /** The answer to one; nothing where nobody waits for it. */
  function answer(ref: string, what: Parameters<Answered>[0]): void {
    const waiting = pending.get(ref);
    pending.delete(ref);
    waiting?.answered(what);
  }

  return {
    answer,

    /** Takes one in, and returns whether it did: there may be too many. */
    add(frame: PublishFrame, sinceMs: number, answered: Answered): boolean {
      const hasRoom = pending.size < PENDING_MAX;
      if (hasRoom) pending.set(frame.ref, { frame, sinceMs, answered });
      else answered(errorOf('OVERLOADED', `${PENDING_MAX} publishes wait for their answer`));
      return hasRoom;
    },

    /**
     * The server has ended the connection over a message that is larger than it takes. It is the
     * largest of those that wait, and it would be too large again.
     */
    refuseLargest(): void {
      const size = (frame: PublishFrame) => JSON.stringify(frame).length;
      const [largest] = [...pending.values()].sort((a, b) => size(b.frame) - size(a.frame));
      const text = 'what was published is larger than the server takes';
      if (largest) answer(largest.frame.ref, errorOf('PAYLOAD_TOO_LARGE', text));
    },

    /** What to send on a new connection, in order. What has waited for too long is refused. */
    again(nowMs: number): PublishFrame[] {
      for (const [ref, { sinceMs }] of pending) {
        const isLate = nowMs - sinceMs >= RETRY_MAX_MS;
        if (isLate) answer(ref, errorOf('CONNECTION_TIMEOUT', 'there was no connection for too long'));
      }
      return [...pending.values()].map(({ frame }) => frame);
    },

    /** No connection will come for those that wait. */
    reject(why: string): void {
      for (const ref of pending.keys()) answer(ref, errorOf('CONNECTION_CLOSED', why));
    },
  };
}

const PENDING_MAX = 1_000;
/** Less than the five minutes for which the server remembers ids. */
const RETRY_MAX_MS = 240_000;
