// hooks/usePushFlo.ts
import { useEffect, useState } from 'react';
import { PushFloClient } from '@pushflodev/sdk';

export function usePushFlo(channel: string) {
  const [messages, setMessages] = useState<any[]>([]);
  const [isConnected, setIsConnected] = useState(false);

  useEffect(() => {
    const client = new PushFloClient({
      publishKey: process.env.NEXT_PUBLIC_PUSHFLO_APP_ID!,
    });

    client.connect();

    client.on('connected', () => {
      setIsConnected(true);
    });

    client.subscribe(channel, {
      onMessage: (message) => {
        setMessages((prev) => [...prev, message]);
      },
    });

    return () => {
      client.disconnect();
    };
  }, [channel]);

  return { messages, isConnected };
}
