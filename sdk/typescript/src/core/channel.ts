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

/** What a channel wants done: a frame sent, or its listeners told. */
export type ChannelEffect = { send: ClientFrame } | { tell: ChannelEvent };

export interface RecoverySettings {
  /** Whether what is missed while there is no connection is asked for. */
  replayOnReconnect: boolean;
  /** How far back that goes, in milliseconds. */
  replayWindow: number;
}

type State =
  /** Nothing is asked on this connection, or there is none. */
  'idle' | 'subscribing' | 'live' | 'leaving';

export class Channel {
  /** Whether anybody listens. */
  isWanted = false;
  /** What subscribers want of the past and have not got, each with an object of its own. */
  private asks: Replay[] = [];
  /** Those of them that `replay` or `late` asks for. */
  private served: Replay[] = [];
  /** Whether anybody wants to know who else is there. */
  wantsPresence = false;

  private state: State = 'idle';
  private position?: StreamPosition;
  /** The epoch of messages that name none. */
  private epoch = '';
  /** When the connection was lost on which `position` was reached. */
  private lostAtMs?: number;
  private asked: 'live' | 'recover' | 'window' | 'replay' | 'late' = 'live';
  /** The head when the past began that is under way. */
  private pastHead: StreamPosition = { epoch: '', offset: 0 };
  /** Messages of the past that still follow `subscribed`. */
  private pastLeft = 0;
  /** The next message may follow anything: nothing is known of what was before. */
  private isAtStart = false;
  /** The position from which a hole in the stream was asked for last. */
  private askedAgainAfter?: number;
  private hasPresence = false;
  /** It is subscribed anew for the sake of those who joined late: for the others nothing happens. */
  private isInRounds = false;
  private members = new Map<string, Member>();

  constructor(
    readonly name: string,
    private readonly settings: RecoverySettings,
  ) {}

  get isLive(): boolean {
    return this.state === 'live' || this.isInRounds;
  }

  /** Nobody listens and nothing is under way: it can be forgotten. */
  get isIdle(): boolean {
    return this.state === 'idle' && !this.isWanted;
  }

  /** Does what is due when nothing is under way. `serverNowMs` is by the server's clock. */
  proceed(nowMs: number, serverNowMs: number): ChannelEffect[] {
    if (this.state === 'idle' && this.isWanted) return [this.subscribe(nowMs, serverNowMs)];
    const isOutdated = !this.isWanted || (this.wantsPresence && !this.hasPresence);
    // Whoever joined late gets the past in a round of its own, when none is under way.
    const isLateWanted = this.asks.length > 0 && this.pastLeft === 0;
    if (this.state !== 'live' || !(isOutdated || isLateWanted)) return [];
    this.isInRounds = this.isWanted && !isOutdated;
    return [this.leave()];
  }

  /** The connection is gone. */
  lost(nowMs: number): void {
    if (this.state !== 'idle') this.lostAtMs ??= nowMs;
    this.state = 'idle';
    this.isInRounds = false;
    this.askedAgainAfter = undefined;
    // Nothing of the past that was asked for has arrived: it is asked for again.
    if (this.position && this.position.offset < 0) this.position = undefined;
  }

  /** Somebody listens, and wants this of the past. */
  want(replay?: Replay): void {
    this.isWanted = true;
    if (replay) this.asks.push(replay);
  }

  /** Nobody listens any more; one that subscribes later starts anew. */
  unwant(): void {
    this.isWanted = this.wantsPresence = false;
    this.asks = [];
    this.position = undefined;
  }

  subscribed(frame: SubscribedFrame): ChannelEffect[] {
    if (this.state !== 'subscribing') return [];
    this.state = 'live';
    this.lostAtMs = undefined;
    if (!this.isWanted) return [];
    const { epoch, offset, recovered, replayed = 0 } = frame;
    const head = { epoch, offset };
    const before = this.position;
    this.pastHead = head;
    if (this.asked === 'late') {
      this.epoch = epoch;
      this.pastLeft = replayed;
      return replayed > 0 ? [] : this.filled();
    }
    this.epoch = epoch;
    this.pastLeft = this.asked === 'replay' || this.asked === 'window' ? replayed : 0;
    this.isAtStart = this.pastLeft > 0;
    const isSame = before?.epoch === epoch;
    const isWhole = this.asked === 'recover' ? recovered === true : isSame && before.offset === offset;
    if (!before || this.asked !== 'recover' || !isWhole) {
      // Of a replayed past, only what was seen before is known.
      this.position = this.isAtStart ? { epoch, offset: isSame ? before.offset : -1 } : head;
    }
    const wasInRounds = this.isInRounds;
    this.isInRounds = false;
    const effects: ChannelEffect[] = wasInRounds ? [] : [tell({ type: 'subscribed', recovered, replayed })];
    if (this.asked === 'replay' && replayed === 0) effects.push(...this.filled());
    if (before && !isWhole) effects.push(tell({ type: 'gap', after: before, head }));
    else if (before && !wasInRounds) effects.push(tell({ type: 'recovered', replayed }));
    return effects;
  }

  unsubscribed(): ChannelEffect[] {
    const wasAsked = this.state !== 'live';
    this.state = 'idle';
    if (wasAsked) return [];
    this.unwant();
    return [tell({ type: 'unsubscribed' })];
  }

  /** The server said no to `subscribe`. Returns whether only those are concerned who joined late. */
  refused(): boolean {
    if (this.state !== 'subscribing') return false;
    this.state = 'idle';
    if (this.asked !== 'late') return false;
    this.forgetServed();
    return true;
  }

  message(frame: MessageFrame): ChannelEffect[] {
    const seen = this.position;
    if (this.state !== 'live' || !this.isWanted || !seen) return [];
    if (this.asked === 'late') return this.lateMessage(frame);
    const { offset, epoch = this.epoch, prev = offset - 1 } = frame;
    const isSame = epoch === seen.epoch;
    const left = this.pastLeft;
    if (left > 0) this.pastLeft--;
    if (isSame && offset <= seen.offset) return [];
    const effects: ChannelEffect[] = [];
    const isMissingSome = !this.isAtStart && prev > (isSame ? seen.offset : 0);
    if (isMissingSome) {
      if (isSame && this.askedAgainAfter !== seen.offset) {
        this.askedAgainAfter = seen.offset;
        return [this.leave()];
      }
      effects.push(tell({ type: 'gap', after: seen, head: { epoch, offset: prev } }));
    }
    this.isAtStart = false;
    this.position = { epoch, offset };
    // The past of a window is new to those who were there before.
    const isPast = left > 0 && this.asked === 'replay';
    const past = isPast ? { asks: this.served, left, isLate: false } : undefined;
    effects.push(tell({ type: 'message', frame, past }));
    if (isPast && left === 1) effects.push(...this.filled());
    return effects;
  }

  /** A message of the past for those who joined late. What is live comes again in the next round. */
  private lateMessage(frame: MessageFrame): ChannelEffect[] {
    const left = this.pastLeft;
    if (left === 0) return [];
    this.pastLeft--;
    const past = { asks: this.served, left, isLate: true };
    const message = tell({ type: 'message', frame: { ...frame, epoch: frame.epoch ?? this.epoch }, past });
    return left === 1 ? [message, ...this.filled()] : [message];
  }

  /** All that was asked for is there. After a late round, what everybody listens to goes on. */
  private filled(): ChannelEffect[] {
    const told = tell({ type: 'filled', asks: this.served, head: this.pastHead });
    this.forgetServed();
    return this.asked === 'late' ? [told, this.leave()] : [told];
  }

  presence({ members, joined = [], left = [], count }: PresenceFrame): ChannelEffect[] {
    if (members) this.members = new Map(members.map((member) => [identity(member), member]));
    for (const member of joined) this.members.set(identity(member), member);
    for (const member of left) this.members.delete(identity(member));
    return [tell({ type: 'presence', members: [...this.members.values()], count, joined, left })];
  }

  private forgetServed(): void {
    this.asks = this.asks.filter((ask) => !this.served.includes(ask));
  }

  private leave(): ChannelEffect {
    this.state = 'leaving';
    return { send: { type: 'unsubscribe', channel: this.name } };
  }

  private subscribe(nowMs: number, serverNowMs: number): ChannelEffect {
    this.state = 'subscribing';
    this.hasPresence = this.wantsPresence;
    const past = this.past(nowMs, serverNowMs);
    const presence = this.wantsPresence ? ({ presence: true } as const) : {};
    return { send: { type: 'subscribe', channel: this.name, ...past, ...presence } };
  }

  /** What to ask of the past. */
  private past(nowMs: number, serverNowMs: number): { recover?: StreamPosition; replay?: Replay } {
    const { replayOnReconnect, replayWindow } = this.settings;
    const awayMs = this.lostAtMs === undefined ? undefined : nowMs - this.lostAtMs;
    const isServed = (ask: Replay) => 'last' in ask === 'last' in this.asks[0]!;
    this.served = this.asks.filter(isServed);
    const ask = this.served.length ? this.served.reduce(larger) : undefined;
    if (!this.position) {
      this.asked = ask ? 'replay' : 'live';
      return ask ? { replay: ask } : {};
    }
    if (ask && awayMs === undefined && this.asked !== 'late') {
      this.asked = 'late';
      return { replay: ask };
    }
    if (awayMs !== undefined && !replayOnReconnect) {
      this.asked = 'live';
      return {};
    }
    if (awayMs !== undefined && awayMs > replayWindow) {
      this.asked = 'window';
      return { replay: { since: Math.max(0, serverNowMs - replayWindow) } };
    }
    this.asked = 'recover';
    return { recover: this.position };
  }
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

function tell(event: ChannelEvent): ChannelEffect {
  return { tell: event };
}
