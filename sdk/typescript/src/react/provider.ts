/**
 * One connection for a tree of components. The client is made while rendering, which opens nothing and
 * throws nothing; it connects when the tree is mounted and disconnects when it goes, so that a server's
 * rendering, strict mode and hot reload leave no connection behind.
 */
import {
  type ClientOptions,
  type ConnectionState,
  PushFloClient,
  type Subscription,
  type SubscriptionOptions,
} from '@pushflodev/sdk';
import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
} from 'react';

export type PushFloProviderProps = {
  children?: ReactNode | undefined;
  /** Connect when the tree is mounted. Default true. */
  autoConnect?: boolean | undefined;
} & (
  | {
      /** A client of your own, which the provider neither connects nor disconnects. */
      client: PushFloClient;
    }
  /** Another `publishKey` or `baseUrl` makes a new client; the other options count at first. */
  | ({ client?: undefined } & Omit<ClientOptions, 'autoConnect'>)
);

export interface PushFloContextValue {
  connectionState: ConnectionState;
  /** Null where none can be made of the provider's properties; the console says why. */
  client: PushFloClient | null;
  connect: () => Promise<void>;
  disconnect: () => void;
  /** Null where there is no client. */
  subscribe: (channel: string, options?: SubscriptionOptions) => Subscription | null;
  /** Ends all subscriptions to a channel, those of hooks too. */
  unsubscribe: (channel: string) => void;
}

const Context = createContext<PushFloContextValue | null>(null);

/** What the properties come to: a client, or why there is none. */
type Made = { client: PushFloClient; error?: undefined } | { client: null; error: unknown };

export function PushFloProvider({
  children,
  client: given,
  autoConnect = true,
  ...options
}: PushFloProviderProps): ReactElement {
  const { publishKey, baseUrl, getToken } = options as ClientOptions;
  // The latest one is called, and a new function alone does not make a new client.
  const latest = useRef(getToken);
  useEffect(() => {
    latest.current = getToken;
  });
  const hasGetToken = Boolean(getToken);
  const { client, error } = useMemo((): Made => {
    if (given) return { client: given };
    const renewing = hasGetToken ? { getToken: () => latest.current!() } : {};
    try {
      return { client: new PushFloClient({ ...options, ...renewing }) };
    } catch (error) {
      return { client: null, error };
    }
  }, [given, publishKey, baseUrl, hasGetToken]);

  const [state, setState] = useState<ConnectionState>('disconnected');
  useEffect(() => {
    if (!client) {
      console.error(`[pushflo] PushFloProvider: ${error instanceof Error ? error.message : String(error)}`);
      setState('error');
      return;
    }
    setState(client.connectionState);
    const removeListener = client.onConnectionChange(setState);
    // What becomes of it is the state.
    if (!given && autoConnect) client.connect().catch(() => {});
    return () => {
      removeListener();
      if (!given) client.disconnect();
    };
  }, [client, error, given, autoConnect]);

  const value = useMemo(
    (): PushFloContextValue => ({
      connectionState: state,
      client,
      connect: () => (client ? client.connect() : Promise.reject(error)),
      disconnect: () => client?.disconnect(),
      subscribe: (channel, subscription) => client && client.subscribe(channel, subscription),
      unsubscribe: (channel) => client?.unsubscribe(channel),
    }),
    [client, error, state],
  );
  // Not JSX: React 17 has nothing for it that all module systems find.
  return createElement(Context.Provider, { value }, children);
}

/** The connection of the nearest provider. @throws where there is none. */
export function usePushFloContext(): PushFloContextValue {
  const context = useContext(Context);
  if (context) return context;
  throw new Error('usePushFlo, useChannel and usePresence must be used within a <PushFloProvider>');
}
