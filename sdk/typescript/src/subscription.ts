/** What an application gives and gets when it subscribes. */
import type { ChannelEvent } from './core/channel';
import type { Member, Replay, StreamPosition } from './core/wire';
import { guarded } from './emitter';
import type { PushFloError } from './errors';
import { type Message, messageOf } from './message';

/** Who is subscribed to a channel with presence. */
export interface Presence {
  /** Everybody who is known to be there, by client id. */
  members: Member[];
  /** How many there are. */
  count: number;
  /** Who came with this change. */
  joined: Member[];
  /** Who went with this change. */
  left: Member[];
}

/** Messages may be missing between two positions. */
export interface Gap {
  channel: string;
  /** The last message that was seen. */
  after?: StreamPosition;
  /** Messages after this one are seen again. */
  head: StreamPosition;
}

export interface SubscriptionOptions<T = any> {
  onMessage?: ((message: Message<T>) => void) | undefined;
  /** The subscription was refused, such as for a private channel. */
  onError?: ((error: PushFloError) => void) | undefined;
  /** It is in force: at first, and again after each reconnect. What was asked for of the past follows. */
  onSubscribed?: (() => void) | undefined;
  /** It has ended, by `unsubscribe()` or because the channel was deleted. */
  onUnsubscribed?: (() => void) | undefined;
  /** The connection was away, and nothing is missing: what was missed follows. */
  onRecovered?: ((info: { channel: string; replayed: number }) => void) | undefined;
  /** The connection was away for too long: messages may be missing. */
  onGap?: ((gap: Gap) => void) | undefined;
  /**
   * What to get of the past at first: the last so many messages, or all since a time in Unix ms. Each
   * subscription gets its own, also one that joins others of the same channel.
   */
  replay?: Replay | undefined;
  /** Who else is there; the channel must have presence. */
  onPresence?: ((presence: Presence) => void) | undefined;
}

/** A subscription in force or on its way. */
export interface Subscription {
  readonly channel: string;
  unsubscribe(): void;
}

/** One listener of a channel. */
export type Listener = ReturnType<typeof listenerOf>;

export function listenerOf(channel: string, options: SubscriptionOptions) {
  /** What it wants of the past: an object of its own, by which it is known. */
  const replay = options.replay && { ...options.replay };
  /** It has what it asked for of the past, and gets what is live. */
  let isFilled = !replay;
  /** What it has of the past, where it joined late: that comes again, and is not for it. */
  let has: StreamPosition | undefined;
  let presence: Presence | undefined;

  /** Passes on what happened in the channel. */
  function tell(event: ChannelEvent): void {
    switch (event.type) {
      case 'message':
        if (isForMe(event)) guarded(options.onMessage, messageOf(event.frame));
        return;
      case 'filled':
        if (isFilled || !event.asks.includes(replay!)) return;
        isFilled = true;
        has = event.head;
        return;
      case 'subscribed':
        return guarded(options.onSubscribed);
      case 'unsubscribed':
        return guarded(options.onUnsubscribed);
      case 'recovered':
        return guarded(options.onRecovered, { channel, replayed: event.replayed });
      case 'gap':
        return guarded(options.onGap, { channel, after: event.after, head: event.head });
      case 'presence': {
        const { members, count, joined, left } = event;
        presence = { members, count, joined, left };
        return guarded(options.onPresence, presence);
      }
    }
  }

  function isForMe({ frame, past }: ChannelEvent & { type: 'message' }): boolean {
    const { offset, epoch, timestamp } = frame;
    if (has && (epoch ?? has.epoch) === has.epoch && offset <= has.offset) return false;
    if (!past) return isFilled;
    if (!replay || !past.asks.includes(replay)) return false;
    if (isFilled) return !past.isLate;
    const isWanted = 'last' in replay ? past.left <= replay.last : timestamp >= replay.since;
    if (!isWanted) return false;
    // What follows in a first round is all for it; a late round may have to be begun again.
    if (past.isLate) has = { epoch: epoch!, offset };
    else isFilled = true;
    return true;
  }

  return {
    channel,
    options,
    replay,
    tell,

    /** Brings one that came later to what this one knows. */
    catchUp(later: { tell: typeof tell }): void {
      if (presence) later.tell({ type: 'presence', ...presence, joined: [], left: [] });
    },
  };
}
