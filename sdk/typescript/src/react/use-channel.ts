import type { ConnectionState, Gap, Message, PushFloError, Replay } from '@pushflodev/sdk';
import { useCallback, useEffect, useRef, useState } from 'react';
import { usePushFloContext } from './provider';

export interface UseChannelOptions<T = any> {
  /** How many messages are kept, the latest. Default 100. */
  maxMessages?: number | undefined;
  /** What to begin with: the last so many messages, or all since a time in Unix ms. */
  history?: number | { since: number } | undefined;
  onMessage?: ((message: Message<T>) => void) | undefined;
  /** The subscription was refused, or the channel's name or an option is wrong. */
  onError?: ((error: PushFloError) => void) | undefined;
  /** Messages may be missing. */
  onGap?: ((gap: Gap) => void) | undefined;
}

export interface UseChannelResult<T = any> {
  /** Oldest first. */
  messages: Message<T>[];
  lastMessage: Message<T> | null;
  /** Whether messages come; false while the connection is away. */
  isSubscribed: boolean;
  connectionState: ConnectionState;
  clearMessages: () => void;
}

/** What is known of one channel; of another there is nothing to show. */
interface Seen {
  channel: unknown;
  isSubscribed: boolean;
  messages: Message[];
}

/** Subscribes to a channel while the component is there; what is no name, as `null`, to nothing. */
export function useChannel<T = any>(
  channel: string | null | undefined | false,
  options: UseChannelOptions<T> = {},
): UseChannelResult<T> {
  const { client, connectionState } = usePushFloContext();
  const [seen, setSeen] = useState<Seen>({ channel: null, isSubscribed: false, messages: [] });
  // Callbacks are mostly new with each rendering, which is no reason to subscribe anew.
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });

  useEffect(() => {
    if (!client || !channel) return;
    const change = (next: (before: Seen) => Partial<Seen>) => {
      setSeen((before) => {
        const mine = before.channel === channel ? before : { channel, isSubscribed: false, messages: [] };
        return { ...mine, ...next(mine) };
      });
    };
    const { history, maxMessages: first } = latest.current;
    const fail = (error: PushFloError) => {
      const { onError } = latest.current;
      if (onError) onError(error);
      else console.error(`[pushflo] useChannel: ${error.message}`);
    };
    let subscription: { unsubscribe(): void };
    try {
      subscription = client.subscribe<T>(channel, {
        replay: replayOf(history, first),
        onMessage: (message) => {
          const { maxMessages = MAX_MESSAGES_DEFAULT, onMessage } = latest.current;
          change(({ messages }) => ({ messages: [...messages, message].slice(-maxMessages) }));
          onMessage?.(message);
        },
        onSubscribed: () => change(() => ({ isSubscribed: true })),
        onUnsubscribed: () => change(() => ({ isSubscribed: false })),
        onError: fail,
        onGap: (gap) => latest.current.onGap?.(gap),
      });
    } catch (error) {
      fail(error as PushFloError);
      return;
    }
    const removeListener = client.onConnectionChange((state) => {
      if (state !== 'connected') change(() => ({ isSubscribed: false }));
    });
    return () => {
      removeListener();
      subscription.unsubscribe();
      setSeen({ channel: null, isSubscribed: false, messages: [] });
    };
  }, [client, channel]);

  const clearMessages = useCallback(() => setSeen((before) => ({ ...before, messages: [] })), []);
  const isThis = seen.channel === channel;
  const messages = isThis ? seen.messages : NONE;
  const lastMessage = messages.at(-1) ?? null;
  return { messages, lastMessage, isSubscribed: isThis && seen.isSubscribed, connectionState, clearMessages };
}

function replayOf(
  history: UseChannelOptions['history'],
  maxMessages = MAX_MESSAGES_DEFAULT,
): Replay | undefined {
  return typeof history === 'number' ? { last: Math.min(history, maxMessages) } : history;
}

/** The same one each time, so that what depends on it is not done again. */
const NONE: Message[] = [];
const MAX_MESSAGES_DEFAULT = 100;
