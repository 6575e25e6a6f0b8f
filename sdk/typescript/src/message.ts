import type { MessageFrame } from './core/wire';

/** A message as subscribers get it. */
export interface Message<T = any> {
  /** Unique; the same for every subscriber. */
  id: string;
  channel: string;
  /** What kind of message it is; `message` where the publisher said nothing. */
  eventType: string;
  /** Who published it; empty where the publisher did not say. */
  clientId: string;
  /** What was published: any JSON. */
  content: T;
  /** When the server took it, in Unix milliseconds. */
  timestamp: number;
  /** Its place in the channel; grows with every message. */
  offset: number;
  /** The same as `eventType`. */
  event: string;
  /** The same as `content`. */
  data: T;
  /** Room for what an application notes on its messages, such as `read`. */
  [note: string]: any;
}

/** The message in a frame. */
export function messageOf(frame: MessageFrame): Message {
  const { channel, messageId: id, eventType, data, timestamp, offset } = frame;
  const clientId = frame.clientId ?? '';
  return { id, channel, eventType, clientId, content: data, timestamp, offset, event: eventType, data };
}
