import type { ConnectionState, PushFloClient } from '@pushflodev/sdk';
import { useCallback, useSyncExternalStore } from 'react';
import { useClient } from './provider';

export interface PushFloConnection {
  client: PushFloClient;
  connectionState: ConnectionState;
  isConnected: boolean;
  /** The name the server gave the connection. */
  clientId: string | null;
  connect(): Promise<void>;
  disconnect(): void;
}

/** The provider's client and the state of its connection. */
export function usePushFlo(): PushFloConnection {
  const client = useClient();
  const connectionState = useConnectionState(client);
  const connect = useCallback(() => client.connect(), [client]);
  const disconnect = useCallback(() => client.disconnect(), [client]);
  const isConnected = connectionState === 'connected';
  return { client, connectionState, isConnected, clientId: client.clientId, connect, disconnect };
}

/** Renders anew when the state changes. */
export function useConnectionState(client: PushFloClient): ConnectionState {
  return useSyncExternalStore(
    useCallback((changed) => client.onConnectionChange(changed), [client]),
    () => client.connectionState,
    () => 'disconnected',
  );
}
