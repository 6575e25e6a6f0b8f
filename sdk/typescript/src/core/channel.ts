/**
 * One channel's subscription: what of its messages is new, and what to ask when some are missing.
 * A state machine without I/O; time comes with its inputs.
 *
 * At most one command is under way for a channel, so that each answer belongs to one question. The
 * invariant of `position`: everything up to it was given out, or was announced as a gap.
 */
import type {
  ClientFrame,
  Member,
  MessageFrame,
  PresenceFrame,
  Replay,
  StreamPosition,
  SubscribedFrame,
} from './wire';

/** What happened in a channel, for those who listen to it. */
export type ChannelEvent =
  | { type: 'subscribed'; recovered?: boolean; replayed: number }
  /** The server ended the subscription: the channel was deleted. */
  | { type: 'unsubscribed' }
  | { type: 'message'; frame: MessageFrame; past?: Past }
  /** All of the past that was asked for is there, up to `head`. */
  | { type: 'filled'; asks: Replay[]; head: StreamPosition }
  /** Everything that was missed follows. */
  | { type: 'recovered'; replayed: number }
  /** Messages after `after` and up to `head` may be missing. */
  | { type: 'gap'; after?: StreamPosition; head: StreamPosition }
  | { type: 'presence'; members: Member[]; count: number; joined: Member[]; left: Member[] };

/** What a message is that was published before the subscription and asked for with `replay`. */
export interface Past {
  /** Whose it is: the very objects that were given. The past is as much as the most that they want. */
  asks: Replay[];
  /** How many of it follow, this one included. */
  left: number;
  /** It is for those alone who joined while the channel was live; all others have it. */
  isLate: boolean;
}

/** What a channel wants done. */
export interface ChannelEffects {
  send(frame: ClientFrame): void;
  /** Its listeners are to know. */
  tell(event: ChannelEvent): void;
}

export interface RecoverySettings {
  /** Whether what is missed while there is no connection is asked for. */
  replayOnReconnect: boolean;
  /** How far back that goes, in milliseconds. */
  replayWindow: number;
}

type State =
  /** Nothing is asked on this connection, or there is none. */
  'idle' | 'subscribing' | 'live' | 'leaving';

export type Channel = ReturnType<typeof channelOf>;

export function channelOf(name: string, settings: RecoverySettings, { send, tell }: ChannelEffects) {
  /** Whether anybody listens. */
  let isWanted = false;
  /** Whether anybody wants to know who else is there. */
  let wantsPresence = false;
  /** What subscribers want of the past and have not got, each with an object of its own. */
  let asks: Replay[] = [];
  /** Those of them that `replay` or `late` asks for. */
  let served: Replay[] = [];

  let state: State = 'idle';
  let position: StreamPosition | undefined;
  /** The epoch of messages that name none. */
  let ownEpoch = '';
  /** When the connection was lost on which `position` was reached. */
  let lostAtMs: number | undefined;
  let asked: 'live' | 'recover' | 'window' | 'replay' | 'late' = 'live';
  /** The head when the past began that is under way. */
  let pastHead: StreamPosition;
  /** Messages of the past that still follow `subscribed`. */
  let pastLeft = 0;
  /** The next message may follow anything: nothing is known of what was before. */
  let isAtStart = false;
  /** The position from which a hole in the stream was asked for last. */
  let askedAgainAfter: number | undefined;
  let hasPresence = false;
  /** It is subscribed anew for the sake of those who joined late: for the others nothing happens. */
  let isInRounds = false;
  let everybody = new Map<string, Member>();

  function subscribe(nowMs: number, serverNowMs: number): void {
    state = 'subscribing';
    hasPresence = wantsPresence;
    const presence = wantsPresence ? ({ presence: true } as const) : {};
    send({ type: 'subscribe', channel: name, ...past(nowMs, serverNowMs), ...presence });
  }

  /** What to ask of the past. */
  function past(nowMs: number, serverNowMs: number): { recover?: StreamPosition; replay?: Replay } {
    const { replayOnReconnect, replayWindow } = settings;
    const awayMs = lostAtMs === undefined ? undefined : nowMs - lostAtMs;
    served = asks.filter((ask) => 'last' in ask === 'last' in asks[0]!);
    const replay = served.length ? served.reduce(larger) : undefined;
    if (!position) {
      asked = replay ? 'replay' : 'live';
      return replay ? { replay } : {};
    }
    if (awayMs === undefined) {
      if (replay && asked !== 'late') {
        asked = 'late';
        return { replay };
      }
    } else if (!replayOnReconnect) {
      asked = 'live';
      return {};
    } else if (awayMs > replayWindow) {
      asked = 'window';
      return { replay: { since: Math.max(0, serverNowMs - replayWindow) } };
    }
    asked = 'recover';
    return { recover: position };
  }

  function leave(): void {
    state = 'leaving';
    send({ type: 'unsubscribe', channel: name });
  }

  /** All that was asked for is there. After a late round, what everybody listens to goes on. */
  function filled(): void {
    tell({ type: 'filled', asks: served, head: pastHead });
    forgetServed();
    if (asked === 'late') leave();
  }

  function forgetServed(): void {
    asks = asks.filter((ask) => !served.includes(ask));
  }

  /** A message of the past for those who joined late. What is live comes again in the next round. */
  function lateMessage(frame: MessageFrame): void {
    const left = pastLeft;
    if (left === 0) return;
    pastLeft--;
    const past = { asks: served, left, isLate: true };
    tell({ type: 'message', frame: { ...frame, epoch: frame.epoch ?? ownEpoch }, past });
    if (left === 1) filled();
  }

  /** Nobody listens any more; one that subscribes later starts anew. */
  function unwant(): void {
    isWanted = wantsPresence = false;
    asks = [];
    position = undefined;
  }

  return {
    name,
    unwant,

    isLive: () => state === 'live' || isInRounds,

    /** Nobody listens and nothing is under way: it can be forgotten. */
    isIdle: () => state === 'idle' && !isWanted,

    /** Somebody listens, and wants this of the past. */
    want(replay?: Replay, presence?: boolean): void {
      isWanted = true;
      wantsPresence ||= presence ?? false;
      if (replay) asks.push(replay);
    },

    /** Does what is due when nothing is under way. `serverNowMs` is by the server's clock. */
    proceed(nowMs: number, serverNowMs: number): void {
      if (state === 'idle' && isWanted) return subscribe(nowMs, serverNowMs);
      const isOutdated = !isWanted || (wantsPresence && !hasPresence);
      // Whoever joined late gets the past in a round of its own, when none is under way.
      const isLateWanted = asks.length > 0 && pastLeft === 0;
      if (state !== 'live' || !(isOutdated || isLateWanted)) return;
      isInRounds = isWanted && !isOutdated;
      leave();
    },

    /** The connection is gone. */
    lost(nowMs: number): void {
      if (state !== 'idle') lostAtMs ??= nowMs;
      state = 'idle';
      isInRounds = false;
      askedAgainAfter = undefined;
      // Nothing of the past that was asked for has arrived: it is asked for again.
      if (position && position.offset < 0) position = undefined;
    },

    subscribed({ epoch, offset, recovered, replayed = 0 }: SubscribedFrame): void {
      if (state !== 'subscribing') return;
      state = 'live';
      lostAtMs = undefined;
      if (!isWanted) return;
      const head = { epoch, offset };
      const before = position;
      pastHead = head;
      ownEpoch = epoch;
      pastLeft = asked === 'live' || asked === 'recover' ? 0 : replayed;
      if (asked === 'late') return replayed > 0 ? undefined : filled();
      isAtStart = pastLeft > 0;
      const isSame = before?.epoch === epoch;
      const isWhole = asked === 'recover' ? recovered === true : isSame && before.offset === offset;
      if (!before || asked !== 'recover' || !isWhole) {
        // Of a replayed past, only what was seen before is known.
        position = isAtStart ? { epoch, offset: isSame ? before.offset : -1 } : head;
      }
      const wasInRounds = isInRounds;
      isInRounds = false;
      if (!wasInRounds) tell({ type: 'subscribed', recovered, replayed });
      if (asked === 'replay' && replayed === 0) filled();
      if (before && !isWhole) tell({ type: 'gap', after: before, head });
      else if (before && !wasInRounds) tell({ type: 'recovered', replayed });
    },

    unsubscribed(): void {
      const wasAsked = state !== 'live';
      state = 'idle';
      if (wasAsked) return;
      unwant();
      tell({ type: 'unsubscribed' });
    },

    /** The server said no to `subscribe`. Returns whether only those are concerned who joined late. */
    refused(): boolean {
      if (state !== 'subscribing') return false;
      state = 'idle';
      if (asked !== 'late') return false;
      forgetServed();
      return true;
    },

    message(frame: MessageFrame): void {
      const seen = position;
      if (state !== 'live' || !isWanted || !seen) return;
      if (asked === 'late') return lateMessage(frame);
      const { offset, epoch = ownEpoch, prev = offset - 1 } = frame;
      const isSame = epoch === seen.epoch;
      const left = pastLeft;
      if (left > 0) pastLeft--;
      if (isSame && offset <= seen.offset) return;
      const isMissingSome = !isAtStart && prev > (isSame ? seen.offset : 0);
      if (isMissingSome) {
        if (isSame && askedAgainAfter !== seen.offset) {
          askedAgainAfter = seen.offset;
          return leave();
        }
        tell({ type: 'gap', after: seen, head: { epoch, offset: prev } });
      }
      isAtStart = false;
      position = { epoch, offset };
      // The past of a window is new to those who were there before.
      const isPast = left > 0 && asked === 'replay';
      tell({ type: 'message', frame, past: isPast ? { asks: served, left, isLate: false } : undefined });
      if (isPast && left === 1) filled();
    },

    presence({ members, joined = [], left = [], count }: PresenceFrame): void {
      if (members) everybody = new Map();
      for (const member of [...(members ?? []), ...joined]) everybody.set(identity(member), member);
      for (const member of left) everybody.delete(identity(member));
      tell({ type: 'presence', members: [...everybody.values()], count, joined, left });
    },
  };
}

/** Someone who merely says that it is ann is not the ann that a backend vouched for. */
function identity({ clientId, verified }: Member): string {
  return verified === false ? `?${clientId}` : `=${clientId}`;
}

/** What has in it what either asks for. They are of one kind. */
function larger(one: Replay, other: Replay): Replay {
  if ('last' in one && 'last' in other) return one.last >= other.last ? one : other;
  if ('since' in one && 'since' in other) return one.since <= other.since ? one : other;
  return one;
}
