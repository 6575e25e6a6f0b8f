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
   * What to get of the past at first: the last so many messages, or all since a time in Unix ms. One
   * that joins a subscription of the same client which is in force already begins with what comes.
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
export class Listener {
  private lastPresence?: Presence;

  constructor(
    readonly channel: string,
    readonly options: SubscriptionOptions,
  ) {}

  /** Passes on what happened in the channel. */
  tell(event: ChannelEvent): void {
    const { channel, options } = this;
    switch (event.type) {
      case 'message':
        if (!event.fromPast || options.replay) guarded(options.onMessage, messageOf(event.frame));
        return;
      case 'subscribed':
        return guarded(options.onSubscribed);
      case 'unsubscribed':
        return guarded(options.onUnsubscribed);
      case 'recovered':
        return guarded(options.onRecovered, { channel, replayed: event.replayed });
      case 'gap':
        return guarded(options.onGap, { channel, after: event.after, head: event.head });
      case 'presence':
        this.lastPresence = {
          members: event.members,
          count: event.count,
          joined: event.joined,
          left: event.left,
        };
        return guarded(options.onPresence, this.lastPresence);
    }
  }

  /** Brings one that came later to what this one knows. */
  catchUp(later: Listener): void {
    if (!this.lastPresence) return;
    later.tell({ type: 'presence', ...this.lastPresence, joined: [], left: [] });
  }
}
