/** A WebSocket that a test plays the other end of. */
import { vi } from 'vitest';
import type { ServerFrame } from '../src/core/wire';

export class FakeSocket {
  static all: FakeSocket[] = [];
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code?: number; reason?: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  sent: unknown[] = [];
  closedWith?: number;

  constructor(readonly url: string) {
    FakeSocket.all.push(this);
  }

  static get last(): FakeSocket {
    return this.all.at(-1)!;
  }

  /** The sockets that nobody has closed. */
  static get open(): FakeSocket[] {
    return this.all.filter((socket) => socket.closedWith === undefined);
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(code: number): void {
    this.closedWith = code;
  }

  says(frame: ServerFrame): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  greets(): this {
    this.says({ type: 'connected', clientId: 'me', timestamp: Date.now() });
    return this;
  }

  dies(code = 1006, reason = ''): void {
    this.closedWith = code;
    this.onclose?.({ code, reason });
  }

  /** Subscribed to `channel`, and `data` published to it. */
  publishes(channel: string, offset: number, data: unknown): void {
    const fixed = { messageId: `m${offset}`, eventType: 'note', clientId: null, timestamp: 1 };
    this.says({ type: 'message', channel, offset, data, ...fixed });
  }
}

/** Lets promises that are settled be heard of. */
export async function settled(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}
