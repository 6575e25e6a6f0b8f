/**
 * One connection for a tree of components. The client is made while rendering, which opens nothing;
 * it connects when the tree is mounted and disconnects when it goes, so that strict mode and hot
 * reload leave one connection.
 */
import { PushFloClient, type PushFloClientOptions } from '@pushflodev/sdk';
import { createContext, type ReactNode, useContext, useEffect, useMemo, useRef } from 'react';

export type PushFloProviderProps = {
  children?: ReactNode;
} & (
  | {
      /** A client of your own, which the provider neither connects nor disconnects. */
      client: PushFloClient;
    }
  /** Another `publishKey` or `baseUrl` makes a new client; the other options count at first. */
  | ({ client?: undefined } & Omit<PushFloClientOptions, 'autoConnect'>)
);

const ClientContext = createContext<PushFloClient | null>(null);

export function PushFloProvider({ children, client: given, ...options }: PushFloProviderProps): ReactNode {
  const { publishKey, baseUrl, getToken } = options as PushFloClientOptions;
  // The latest one is called, and a new function alone does not make a new client.
  const latest = useRef(getToken);
  useEffect(() => {
    latest.current = getToken;
  });
  const hasGetToken = Boolean(getToken);
  const client = useMemo(() => {
    if (given) return given;
    const renewing = hasGetToken ? { getToken: () => latest.current!() } : {};
    return new PushFloClient({ ...options, ...renewing });
  }, [given, publishKey, baseUrl, hasGetToken]);
  useEffect(() => {
    if (given) return;
    client.connect();
    return () => client.disconnect();
  }, [client, given]);
  return <ClientContext.Provider value={client}>{children}</ClientContext.Provider>;
}

/** The client of the nearest provider. @throws where there is none. */
export function useClient(): PushFloClient {
  const client = useContext(ClientContext);
  if (!client) throw new Error('usePushFlo, useChannel and usePresence need a <PushFloProvider> above them');
  return client;
}
