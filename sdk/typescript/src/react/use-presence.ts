import type { Member } from '@pushflodev/sdk';
import { useEffect, useState } from 'react';
import { usePushFloContext } from './provider';

export interface UsePresenceResult {
  /** Everybody who is there, this client too. */
  members: Member[];
  count: number;
  /**
   * Whether the server has told who is there. It never does of a channel without presence, which is
   * switched on with `updateChannel(slug, { presence: true })`.
   */
  isKnown: boolean;
}

/** Who is subscribed to a channel with presence, while the component is there. */
export function usePresence(channel: string | null | undefined | false): UsePresenceResult {
  const { client } = usePushFloContext();
  const [seen, setSeen] = useState({ channel: null as unknown, presence: NOBODY });
  useEffect(() => {
    if (!client || !channel) return;
    const onPresence = ({ members, count }: { members: Member[]; count: number }) =>
      setSeen({ channel, presence: { members, count, isKnown: true } });
    let subscription: { unsubscribe(): void };
    try {
      subscription = client.subscribe(channel, { onPresence });
    } catch (error) {
      console.error(`[pushflo] usePresence: ${(error as Error).message}`);
      return;
    }
    return () => {
      subscription.unsubscribe();
      setSeen({ channel: null, presence: NOBODY });
    };
  }, [client, channel]);
  return seen.channel === channel ? seen.presence : NOBODY;
}

const NOBODY: UsePresenceResult = { members: [], count: 0, isKnown: false };
