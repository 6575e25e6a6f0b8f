/**
 * A session on a stage: a clock that jumps, timers that are plain numbers, and a log of what the
 * session wanted, so that tests read as scripts.
 */
import { type Answered, type Call, call, type Effects, type Inputs, type Timer } from '../src/core/effects';
import { type Session, sessionOf, type SessionSettings } from '../src/core/session';
import type { ClientFrame, PublishFrame, ServerFrame } from '../src/core/wire';

/** What a session wanted, or that a publish was answered. */
type Logged = Call<Effects> | ['answered', ref: string, answer: Parameters<Answered>[0]];

export const DEFAULTS: SessionSettings = {
  autoReconnect: true,
  maxReconnectAttempts: 0,
  reconnectDelay: 1_000,
  maxReconnectDelay: 30_000,
  connectionTimeout: 10_000,
  heartbeatInterval: 25_000,
  replayOnReconnect: true,
  replayWindow: 3_600_000,
  renewsTokens: false,
  server: 'http://push.test',
};

export class Stage {
  nowMs = 1_700_000_000_000;
  /** When each timer is due. */
  readonly timers = new Map<Timer, number>();
  readonly log: Logged[] = [];
  readonly session: Session;
  isSocketOpen = false;
  tokensWanted = 0;
  /** What `random` gives: 1 makes every wait its longest. */
  chance = 1;

  constructor(settings: Partial<SessionSettings> = {}) {
    this.session = sessionOf(
      { ...DEFAULTS, ...settings },
      { now: () => this.nowMs, random: () => this.chance, out: (...effect) => this.carryOut(effect) },
    );
  }

  apply(...input: Call<Inputs>): this {
    call<Inputs>(this.session, input);
    return this;
  }

  publish(frame: PublishFrame): this {
    return this.apply('publish', frame, (answer) => this.log.push(['answered', frame.ref, answer]));
  }

  private carryOut(effect: Call<Effects>): void {
    this.log.push(effect);
    if (effect[0] === 'start') this.timers.set(effect[1], this.nowMs + effect[2]);
    if (effect[0] === 'stop') this.timers.delete(effect[1]);
    if (effect[0] === 'open') {
      if (this.isSocketOpen) throw new Error('a second socket was opened');
      this.isSocketOpen = true;
    }
    if (effect[0] === 'close') this.isSocketOpen = false;
    if (effect[0] === 'fetchToken') this.tokensWanted++;
    if (effect[0] === 'send' && !this.isSocketOpen) throw new Error('sent without a socket');
  }

  /** Lets time pass, with every timer that falls due. */
  pass(ms: number): this {
    const until = this.nowMs + ms;
    for (;;) {
      const [timer, due] = [...this.timers].sort((a, b) => a[1] - b[1])[0] ?? [];
      if (timer === undefined || due! > until) break;
      this.nowMs = due!;
      this.timers.delete(timer);
      this.apply('timer', timer);
    }
    this.nowMs = until;
    return this;
  }

  says(frame: ServerFrame): this {
    return this.apply('frame', frame);
  }

  /** Connects, with whatever that takes. */
  connected(): this {
    if (['disconnected', 'error'].includes(this.session.state())) this.apply('connect');
    return this.greeted();
  }

  greeted(): this {
    return this.apply('token', { token: 't' }).says({
      type: 'connected',
      clientId: 'c',
      timestamp: this.nowMs,
    });
  }

  closes(code: number, reason = ''): this {
    this.isSocketOpen = false;
    return this.apply('closed', code, reason);
  }

  /** Connected and subscribed to `a`, whose head is at `offset` of the epoch `e`. */
  subscribed(offset = 0): this {
    this.connected().apply('subscribe', 'a');
    return this.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset });
  }

  publishes(offset: number, more: { prev?: number; epoch?: string } = {}): this {
    const fixed = { messageId: `m${offset}`, eventType: 'message', data: offset, timestamp: this.nowMs };
    return this.says({ type: 'message', channel: 'a', offset, ...fixed, ...more });
  }

  /** What was logged since the last time, without timers. */
  since(): Logged[] {
    return this.log.splice(0).filter((effect) => effect[0] !== 'start' && effect[0] !== 'stop');
  }

  /** The frames sent since the last time. */
  sent(): ClientFrame[] {
    return this.log.splice(0).flatMap((effect) => (effect[0] === 'send' ? [effect[1]] : []));
  }

  /** What listeners of channels were told since the last time: offsets of messages, names of others. */
  told(): (number | string)[] {
    return this.log.splice(0).flatMap((effect) => {
      if (effect[0] !== 'tell') return [];
      const [, , event] = effect;
      return [event.type === 'message' ? event.frame.offset : event.type];
    });
  }

  /** How long until a timer is due. */
  due(timer: Timer): number | undefined {
    const at = this.timers.get(timer);
    return at === undefined ? undefined : at - this.nowMs;
  }
}
