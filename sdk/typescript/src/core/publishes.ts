/**
 * Publishes that wait for their answer. They are sent again on the next connection: the id of each
 * keeps it from being published twice, as long as the server remembers it.
 */
import { errorOf, type PushFloError } from '../errors';
import type { PublishSettled } from './effects';
import type { PublishedFrame, PublishFrame } from './wire';

export class Publishes {
  private readonly pending = new Map<string, { frame: PublishFrame; sinceMs: number }>();

  /** Takes one in; or says that there are too many. */
  add(frame: PublishFrame, nowMs: number): PublishSettled | undefined {
    if (this.pending.size >= PENDING_MAX) {
      const text = `${PENDING_MAX} publishes wait for their answer already`;
      return settled(frame.ref, errorOf('OVERLOADED', text));
    }
    this.pending.set(frame.ref, { frame, sinceMs: nowMs });
    return undefined;
  }

  /** The answer to one; nothing where nobody waits for it. */
  answer(ref: string | undefined, answer: PublishedFrame | PushFloError): PublishSettled[] {
    return ref !== undefined && this.pending.delete(ref) ? [settled(ref, answer)] : [];
  }

  /**
   * The server has ended the connection over a message that is larger than it takes. It is the largest
   * of those that wait, and it would be too large again.
   */
  refuseLargest(): PublishSettled[] {
    const size = (frame: PublishFrame) => JSON.stringify(frame).length;
    const [largest] = [...this.pending.values()].sort((a, b) => size(b.frame) - size(a.frame));
    const error = errorOf('PAYLOAD_TOO_LARGE', 'what was published is larger than the server takes');
    return this.answer(largest?.frame.ref, error);
  }

  /** What to send on a new connection, in order, and what has waited for too long. */
  again(nowMs: number): (PublishFrame | PublishSettled)[] {
    return [...this.pending.values()].flatMap<PublishFrame | PublishSettled>(({ frame, sinceMs }) => {
      if (nowMs - sinceMs < RETRY_MAX_MS) return [frame];
      return this.answer(frame.ref, errorOf('CONNECTION_TIMEOUT', 'there was no connection for too long'));
    });
  }

  /** No connection will come for those that wait. */
  reject(why: string): PublishSettled[] {
    return [...this.pending.keys()].flatMap((ref) => this.answer(ref, errorOf('CONNECTION_CLOSED', why)));
  }
}

/** The answer to one that was not taken in. */
export function settled(ref: string, answer: PublishedFrame | PushFloError): PublishSettled {
  return { do: 'published', ref, answer };
}

const PENDING_MAX = 1_000;
/** Less than the five minutes for which the server remembers ids. */
const RETRY_MAX_MS = 240_000;
