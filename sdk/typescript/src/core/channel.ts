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
  /** `fromPast`: it was published before the subscription and asked for with `replay`. */
  | { type: 'message'; frame: MessageFrame; fromPast: boolean }
  /** Everything that was missed follows. */
  | { type: 'recovered'; replayed: number }
  /** Messages after `after` and up to `head` may be missing. */
  | { type: 'gap'; after?: StreamPosition; head: StreamPosition }
  | { type: 'presence'; members: Member[]; count: number; joined: Member[]; left: Member[] };

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
  /** What the first subscription wants of the past. */
  replay?: Replay;
  /** Whether anybody wants to know who else is there. */
  wantsPresence = false;

  private state: State = 'idle';
  private position?: StreamPosition;
  /** The epoch of messages that name none. */
  private epoch = '';
  /** When the connection was lost on which `position` was reached. */
  private lostAtMs?: number;
  private asked: 'live' | 'recover' | 'window' | 'replay' = 'live';
  /** Messages of the past that still follow `subscribed`. */
  private pastLeft = 0;
  /** The next message may follow anything: nothing is known of what was before. */
  private isAtStart = false;
  /** The position from which a hole in the stream was asked for last. */
  private askedAgainAfter?: number;
  private hasPresence = false;
  private members = new Map<string, Member>();

  constructor(
    readonly name: string,
    private readonly settings: RecoverySettings,
  ) {}

  get isLive(): boolean {
    return this.state === 'live';
  }

  /** Nobody listens and nothing is under way: it can be forgotten. */
  get isIdle(): boolean {
    return this.state === 'idle' && !this.isWanted;
  }

  /** Does what is due when nothing is under way. `serverNowMs` is by the server's clock. */
  proceed(nowMs: number, serverNowMs: number): ChannelEffect[] {
    if (this.state === 'idle' && this.isWanted) return [this.subscribe(nowMs, serverNowMs)];
    const isOutdated = !this.isWanted || (this.wantsPresence && !this.hasPresence);
    return this.state === 'live' && isOutdated ? [this.leave()] : [];
  }

  /** The connection is gone. */
  lost(nowMs: number): void {
    if (this.state !== 'idle') this.lostAtMs ??= nowMs;
    this.state = 'idle';
    this.askedAgainAfter = undefined;
    // Nothing of the past that was asked for has arrived: it is asked for again.
    if (this.position && this.position.offset < 0) this.position = undefined;
  }

  /** Nobody listens any more; one that subscribes later starts anew. */
  unwant(): void {
    this.isWanted = this.wantsPresence = false;
    this.replay = this.position = undefined;
  }

  subscribed(frame: SubscribedFrame): ChannelEffect[] {
    if (this.state !== 'subscribing') return [];
    this.state = 'live';
    this.lostAtMs = undefined;
    if (!this.isWanted) return [];
    const { epoch, offset, recovered, replayed = 0 } = frame;
    const head = { epoch, offset };
    const before = this.position;
    this.epoch = epoch;
    this.pastLeft = this.asked === 'replay' || this.asked === 'window' ? replayed : 0;
    this.isAtStart = this.pastLeft > 0;
    const isSame = before?.epoch === epoch;
    const isWhole = this.asked === 'recover' ? recovered === true : isSame && before.offset === offset;
    if (!before || this.asked !== 'recover' || !isWhole) {
      // Of a replayed past, only what was seen before is known.
      this.position = this.isAtStart ? { epoch, offset: isSame ? before.offset : -1 } : head;
    }
    const effects: ChannelEffect[] = [tell({ type: 'subscribed', recovered, replayed })];
    if (before) {
      effects.push(tell(isWhole ? { type: 'recovered', replayed } : { type: 'gap', after: before, head }));
    }
    return effects;
  }

  unsubscribed(): ChannelEffect[] {
    const wasAsked = this.state !== 'live';
    this.state = 'idle';
    if (wasAsked) return [];
    this.unwant();
    return [tell({ type: 'unsubscribed' })];
  }

  /** The server said no to `subscribe`. */
  refused(): void {
    if (this.state === 'subscribing') this.state = 'idle';
  }

  message(frame: MessageFrame): ChannelEffect[] {
    const seen = this.position;
    if (this.state !== 'live' || !this.isWanted || !seen) return [];
    const { offset, epoch = this.epoch, prev = offset - 1 } = frame;
    const isSame = epoch === seen.epoch;
    const fromPast = this.pastLeft > 0;
    if (fromPast) this.pastLeft--;
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
    effects.push(tell({ type: 'message', frame, fromPast: fromPast && this.asked === 'replay' }));
    return effects;
  }

  presence({ members, joined = [], left = [], count }: PresenceFrame): ChannelEffect[] {
    if (members) this.members = new Map(members.map((member) => [identity(member), member]));
    for (const member of joined) this.members.set(identity(member), member);
    for (const member of left) this.members.delete(identity(member));
    return [tell({ type: 'presence', members: [...this.members.values()], count, joined, left })];
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
    if (!this.position) {
      this.asked = this.replay ? 'replay' : 'live';
      return this.replay ? { replay: this.replay } : {};
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

function tell(event: ChannelEvent): ChannelEffect {
  return { tell: event };
}
