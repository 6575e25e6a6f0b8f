/**
 * A session on a stage: a clock that jumps, timers that are plain numbers, and a log of what the
 * session wanted, so that tests read as scripts.
 */
import type { Effect, Input, Timer } from '../src/core/effects';
import { Session, type SessionSettings } from '../src/core/session';
import type { ClientFrame, ServerFrame } from '../src/core/wire';

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
  readonly log: Effect[] = [];
  readonly session: Session;
  isSocketOpen = false;
  tokensWanted = 0;
  /** What `random` gives: 1 makes every wait its longest. */
  chance = 1;

  constructor(settings: Partial<SessionSettings> = {}) {
    this.session = new Session(
      { ...DEFAULTS, ...settings },
      { now: () => this.nowMs, random: () => this.chance },
    );
  }

  apply(input: Input): this {
    for (const effect of this.session.apply(input)) {
      this.log.push(effect);
      if (effect.do === 'start') this.timers.set(effect.timer, this.nowMs + effect.ms);
      if (effect.do === 'stop') this.timers.delete(effect.timer);
      if (effect.do === 'open') {
        if (this.isSocketOpen) throw new Error('a second socket was opened');
        this.isSocketOpen = true;
      }
      if (effect.do === 'close') this.isSocketOpen = false;
      if (effect.do === 'fetchToken') this.tokensWanted++;
      if (effect.do === 'send' && !this.isSocketOpen) throw new Error('sent without a socket');
    }
    return this;
  }

  /** Lets time pass, with every timer that falls due. */
  pass(ms: number): this {
    const until = this.nowMs + ms;
    for (;;) {
      const [timer, due] = [...this.timers].sort((a, b) => a[1] - b[1])[0] ?? [];
      if (timer === undefined || due! > until) break;
      this.nowMs = due!;
      this.timers.delete(timer);
      this.apply({ type: 'timer', timer });
    }
    this.nowMs = until;
    return this;
  }

  says(frame: ServerFrame): this {
    return this.apply({ type: 'frame', frame });
  }

  /** Connects, with whatever that takes. */
  connected(): this {
    if (this.session.state === 'disconnected' || this.session.state === 'error')
      this.apply({ type: 'connect' });
    return this.greeted();
  }

  greeted(): this {
    return this.apply({ type: 'token', token: 't' }).says({
      type: 'connected',
      clientId: 'c',
      timestamp: this.nowMs,
    });
  }

  closes(code: number, reason = ''): this {
    this.isSocketOpen = false;
    return this.apply({ type: 'closed', code, reason });
  }

  /** Connected and subscribed to `a`, whose head is at `offset` of the epoch `e`. */
  subscribed(offset = 0): this {
    this.connected().apply({ type: 'subscribe', channel: 'a' });
    return this.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset });
  }

  publishes(offset: number, more: { prev?: number; epoch?: string } = {}): this {
    const fixed = { messageId: `m${offset}`, eventType: 'message', data: offset, timestamp: this.nowMs };
    return this.says({ type: 'message', channel: 'a', offset, ...fixed, ...more });
  }

  /** What was logged since the last time, without timers. */
  since(): Effect[] {
    return this.log.splice(0).filter((effect) => effect.do !== 'start' && effect.do !== 'stop');
  }

  /** The frames sent since the last time. */
  sent(): ClientFrame[] {
    return this.log.splice(0).flatMap((effect) => (effect.do === 'send' ? [effect.frame] : []));
  }

  /** What listeners of channels were told since the last time: offsets of messages, names of others. */
  told(): (number | string)[] {
    return this.log.splice(0).flatMap((effect) => {
      if (effect.do !== 'tell') return [];
      return [effect.event.type === 'message' ? effect.event.frame.offset : effect.event.type];
    });
  }

  /** How long until a timer is due. */
  due(timer: Timer): number | undefined {
    const at = this.timers.get(timer);
    return at === undefined ? undefined : at - this.nowMs;
  }
}
