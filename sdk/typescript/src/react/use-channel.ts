import type { ConnectionState, Gap, Message, PushFloError, Replay } from '@pushflodev/sdk';
import { useCallback, useEffect, useRef, useState } from 'react';
import { useClient } from './provider';
import { useConnectionState } from './use-pushflo';

export interface UseChannelOptions<T = any> {
  /** How many messages are kept, the latest. Default 100. */
  maxMessages?: number;
  /** What to begin with: the last so many messages, or all since a time in Unix ms. */
  history?: number | { since: number };
  onMessage?: (message: Message<T>) => void;
  onError?: (error: PushFloError) => void;
  /** Messages may be missing. */
  onGap?: (gap: Gap) => void;
}

export interface ChannelMessages<T = any> {
  /** Oldest first. */
  messages: Message<T>[];
  lastMessage: Message<T> | null;
  /** Whether messages come; false while the connection is away. */
  isSubscribed: boolean;
  connectionState: ConnectionState;
  clearMessages(): void;
}

/** Subscribes to a channel while the component is there; `null` subscribes to nothing. */
export function useChannel<T = any>(
  channel: string | null,
  options: UseChannelOptions<T> = {},
): ChannelMessages<T> {
  const client = useClient();
  const connectionState = useConnectionState(client);
  const [messages, setMessages] = useState<Message<T>[]>([]);
  const [isSubscribed, setSubscribed] = useState(false);
  // Callbacks are mostly new with each rendering, which is no reason to subscribe anew.
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });

  useEffect(() => {
    if (channel === null) return;
    const { history, maxMessages: first } = latest.current;
    const subscription = client.subscribe<T>(channel, {
      replay: replayOf(history, first),
      onMessage: (message) => {
        const { maxMessages = MAX_MESSAGES_DEFAULT, onMessage } = latest.current;
        setMessages((before) => [...before, message].slice(-maxMessages));
        onMessage?.(message);
      },
      onSubscribed: () => setSubscribed(true),
      onUnsubscribed: () => setSubscribed(false),
      onError: (error) => latest.current.onError?.(error),
      onGap: (gap) => latest.current.onGap?.(gap),
    });
    const removeListener = client.onConnectionChange((state) => {
      if (state !== 'connected') setSubscribed(false);
    });
    return () => {
      removeListener();
      subscription.unsubscribe();
      setMessages([]);
    };
  }, [client, channel]);

  const clearMessages = useCallback(() => setMessages([]), []);
  return { messages, lastMessage: messages.at(-1) ?? null, isSubscribed, connectionState, clearMessages };
}

function replayOf(
  history: UseChannelOptions['history'],
  maxMessages = MAX_MESSAGES_DEFAULT,
): Replay | undefined {
  return typeof history === 'number' ? { last: Math.min(history, maxMessages) } : history;
}

const MAX_MESSAGES_DEFAULT = 100;
