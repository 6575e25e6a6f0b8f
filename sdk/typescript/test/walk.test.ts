/**
 * Seeded walks: a session against a model of the server, with connections that break anywhere,
 * messages that are lost on the way, logs that expire and logs that begin anew. Whatever happens, a
 * listener sees each message at most once and in order, and everything it does not see was announced
 * as a gap. SDK_SEEDS says how many seeds are walked.
 */
import { expect, it } from 'vitest';
import type { ChannelEvent } from '../src/core/channel';
import type { ClientFrame } from '../src/core/wire';
import { Stage } from './stage';

const SEEDS = Number(process.env.SDK_SEEDS ?? 300);
const STEPS = 400;

it(`keeps its promise over ${SEEDS} walks`, { timeout: 600_000 }, () => {
  let [messages, gaps, recoveries] = [0, 0, 0];
  for (let seed = 1; seed <= SEEDS; seed++) {
    const walk = new Walk(seed);
    for (let step = 0; step < STEPS; step++) walk.step();
    walk.settle();
    messages += walk.seen;
    gaps += walk.gaps;
    recoveries += walk.recoveries;
  }
  // A walk that never meets these shows nothing.
  expect(Math.min(messages / 20, gaps, recoveries)).toBeGreaterThan(SEEDS);
});

class Walk {
  seen = 0;
  gaps = 0;
  recoveries = 0;
  private readonly stage = new Stage({ replayWindow: 20_000 });
  /** The server's log: the epoch and what is kept, with the offset before each. */
  private epoch = 1;
  private head = 0;
  private kept: { offset: number; prev: number; atMs: number }[] = [];
  private isSubscribed = false;
  /** What is on its way to the client, in order. */
  private readonly wire: { arrive(): void; isMessage?: boolean }[] = [];
  /** What the listener saw last, and whether it was told since that something may be missing. */
  private last?: { epoch: number; offset: number };
  private mayMiss = true;

  constructor(private readonly seed: number) {
    this.stage.apply('connect').apply('subscribe', 'a');
    this.look();
  }

  private state = 0;
  private random(below: number): number {
    // xorshift, enough for choices.
    if (!this.state) this.state = this.seed * 2654435761;
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return (this.state >>> 0) % below;
  }

  step(): void {
    const chance = this.random(100);
    if (chance < 45) this.publish();
    else if (chance < 80) this.deliver();
    else if (chance < 84) this.breakOff();
    else if (chance < 86) this.lose();
    else if (chance < 88) this.kept.splice(0, this.random(10));
    else if (chance < 89) this.loseLog();
    else this.stage.pass(this.random(this.random(20) ? 1_500 : 40_000));
    this.look();
  }

  /** Everything arrives, and a last message shows what is missing. */
  settle(): void {
    for (let round = 0; round < 100; round++) {
      this.stage.pass(1_000);
      this.look();
      this.publish();
      while (this.wire.length) {
        this.deliver();
        this.look();
      }
    }
    expect(this.stage.session.state(), `seed ${this.seed}`).toBe('connected');
    expect(this.last, `seed ${this.seed}`).toEqual({ epoch: this.epoch, offset: this.head });
  }

  private publish(): void {
    const prev = this.head;
    this.head += this.random(10) ? 1 : 3;
    this.kept.push({ offset: this.head, prev, atMs: this.stage.nowMs });
    if (this.isSubscribed) this.send(this.head, prev);
  }

  private send(offset: number, prev: number): void {
    const leap = prev === offset - 1 ? {} : { prev };
    this.wire.push({ arrive: () => this.stage.publishes(offset, leap), isMessage: true });
  }

  private deliver(): void {
    this.wire.shift()?.arrive();
  }

  /** A message is lost without a word, as no server should do. */
  private lose(): void {
    if (this.wire[0]?.isMessage) this.wire.shift();
  }

  private breakOff(): void {
    if (!this.stage.isSocketOpen) return;
    this.disconnected();
    this.stage.closes([1006, 1001, 4008][this.random(3)]!);
  }

  private disconnected(): void {
    this.isSubscribed = false;
    this.wire.length = 0;
  }

  private loseLog(): void {
    this.breakOff();
    this.epoch++;
    this.head = 0;
    this.kept = [];
  }

  /** Carries out what the session wants, and checks what it tells. */
  private look(): void {
    const { log } = this.stage;
    for (let effect = log.shift(); effect; effect = log.shift()) {
      if (effect[0] === 'fetchToken') this.stage.apply('token', { token: 't' });
      else if (effect[0] === 'open')
        this.wire.push({
          arrive: () => this.stage.says({ type: 'connected', clientId: 'c', timestamp: this.stage.nowMs }),
        });
      else if (effect[0] === 'close') this.disconnected();
      else if (effect[0] === 'send') this.heard(effect[1]);
      else if (effect[0] === 'tell') this.told(effect[2]);
    }
  }

  private heard(frame: ClientFrame): void {
    if (frame.type === 'ping') this.wire.push({ arrive: () => this.stage.says({ type: 'pong' }) });
    if (frame.type === 'unsubscribe') {
      this.isSubscribed = false;
      this.wire.push({ arrive: () => this.stage.says({ type: 'unsubscribed', channel: 'a' }) });
    }
    if (frame.type !== 'subscribe') return;
    this.isSubscribed = true;
    const { recover, replay } = frame;
    const answer = { type: 'subscribed', channel: 'a', epoch: `${this.epoch}`, offset: this.head } as const;
    let past: typeof this.kept = [];
    let recovered = true;
    if (recover) {
      past = this.kept.filter(({ offset }) => offset > recover.offset);
      const isWhole = recover.offset === this.head || (past[0]?.prev ?? Infinity) <= recover.offset;
      recovered = recover.epoch === `${this.epoch}` && isWhole;
      if (!recovered) past = [];
    } else if (replay && 'since' in replay) past = this.kept.filter(({ atMs }) => atMs >= replay.since);
    const asked = recover || replay ? { recovered, replayed: past.length } : {};
    this.wire.push({ arrive: () => this.stage.says({ ...answer, ...asked }) });
    for (const { offset, prev } of past) this.send(offset, prev);
  }

  private told(event: ChannelEvent): void {
    const where = `seed ${this.seed} after ${JSON.stringify(this.last)}: ${JSON.stringify(event)}`;
    if (event.type === 'recovered') this.recoveries++;
    if (event.type === 'gap') {
      this.gaps++;
      this.mayMiss = true;
    }
    if (event.type !== 'message') return;
    const { offset, prev = offset - 1 } = event.frame;
    const isSame = this.last?.epoch === this.epoch;
    if (isSame) expect(offset, where).toBeGreaterThan(this.last!.offset);
    if (!this.mayMiss) expect(isSame && prev <= this.last!.offset, where).toBe(true);
    this.last = { epoch: this.epoch, offset };
    this.mayMiss = false;
    this.seen++;
  }
}
