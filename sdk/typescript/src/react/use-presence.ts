import type { Member } from '@pushflodev/sdk';
import { useEffect, useState } from 'react';
import { useClient } from './provider';

export interface ChannelPresence {
  /** Everybody who is there, this client too. */
  members: Member[];
  count: number;
}

/** Who is subscribed to a channel with presence, while the component is there. */
export function usePresence(channel: string | null): ChannelPresence {
  const client = useClient();
  const [presence, setPresence] = useState(NOBODY);
  useEffect(() => {
    if (channel === null) return;
    const onPresence = ({ members, count }: ChannelPresence) => setPresence({ members, count });
    const subscription = client.subscribe(channel, { onPresence });
    return () => {
      subscription.unsubscribe();
      setPresence(NOBODY);
    };
  }, [client, channel]);
  return presence;
}

const NOBODY: ChannelPresence = { members: [], count: 0 };
