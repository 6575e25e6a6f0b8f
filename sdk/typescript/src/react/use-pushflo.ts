import type { ConnectionState, PushFloClient, Subscription, SubscriptionOptions } from '@pushflodev/sdk';
import { usePushFloContext } from './provider';

export interface UsePushFloResult {
  /** Null where none can be made of the provider's properties; the console says why. */
  client: PushFloClient | null;
  connectionState: ConnectionState;
  isConnected: boolean;
  isConnecting: boolean;
  /** The name the server gave the connection. */
  clientId: string | null;
  connect: () => Promise<void>;
  disconnect: () => void;
  subscribe: (channel: string, options?: SubscriptionOptions) => Subscription | null;
  unsubscribe: (channel: string) => void;
}

/** The provider's client and the state of its connection. */
export function usePushFlo(): UsePushFloResult {
  const context = usePushFloContext();
  const { client, connectionState } = context;
  const isConnected = connectionState === 'connected';
  const isConnecting = connectionState === 'connecting';
  return { ...context, isConnected, isConnecting, clientId: client && client.clientId };
}
