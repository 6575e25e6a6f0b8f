/** Components as they are written for version 1.0.8 of the hosted service's SDK. */
import {
  type ConnectionState,
  type Message,
  type PushFloContextValue,
  PushFloProvider,
  type PushFloProviderProps,
  type Subscription,
  type SubscriptionOptions,
  useChannel,
  type UseChannelOptions,
  type UseChannelResult,
  usePushFlo,
  usePushFloContext,
  type UsePushFloResult,
} from '@pushflodev/sdk/react';

export function App() {
  const address: string | undefined = process.env.NEXT_PUBLIC_PUSHFLO_BASE_URL;
  return (
    <PushFloProvider publishKey="pub_1" baseUrl={address} autoConnect={true} debug={false}>
      <Dashboard />
      <Bell />
    </PushFloProvider>
  );
}

function Dashboard() {
  const connection: UsePushFloResult = usePushFlo();
  const { connectionState, isConnected, isConnecting, connect, disconnect } = connection;
  const context: PushFloContextValue = usePushFloContext();
  const listen = (channel: string, options?: SubscriptionOptions): Subscription | null =>
    connection.subscribe(channel, options);
  const labels: Record<ConnectionState, string> = {
    disconnected: 'off',
    connecting: 'soon',
    connected: 'on',
    error: 'broken',
  };
  return (
    <div>
      <p>
        {labels[connectionState]} {String(isConnecting)} {context.client?.clientId}
      </p>
      <button onClick={connect} disabled={isConnected}>
        Connect
      </button>
      <button onClick={disconnect} disabled={!isConnected}>
        Disconnect
      </button>
      <button onClick={() => listen('more')}>More</button>
      <button onClick={() => context.unsubscribe('more')}>Less</button>
    </div>
  );
}

function Bell() {
  const options: UseChannelOptions = {
    onMessage: (message: Message) => console.log(message.id),
    onError: (error: Error) => console.error(error),
    maxMessages: 100,
  };
  const channel: UseChannelResult = useChannel('notifications', options);
  const { messages, lastMessage, connectionState, isSubscribed, clearMessages } = channel;
  if (connectionState === 'connecting') return <p>Connecting…</p>;
  return (
    <div>
      <span>({messages.length} new)</span>
      {lastMessage && <p>Latest: {lastMessage.content.title}</p>}
      <ul>
        {messages.map((message) => (
          <li key={message.id}>{message.content.title}</li>
        ))}
      </ul>
      <button onClick={clearMessages}>{isSubscribed ? 'Clear' : 'Wait'}</button>
    </div>
  );
}

export const properties: PushFloProviderProps = { publishKey: 'pub_1', children: null };
