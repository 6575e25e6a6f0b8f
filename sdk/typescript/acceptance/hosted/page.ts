/** A page as it is written for version 1.0.8 of the hosted service's SDK: every name of its main entry. */
import {
  AuthenticationError,
  type Channel,
  type ChannelInput,
  type ChannelUpdateInput,
  type ClientOptions,
  ConnectionError,
  type ConnectionInfo,
  type ConnectionState,
  isValidChannelSlug,
  type ListChannelsOptions,
  MAX_SLUG_LENGTH,
  type Message,
  type MessageHistoryOptions,
  MIN_SLUG_LENGTH,
  NetworkError,
  type Pagination,
  type PublishOptions,
  type PublishResult,
  PushFloClient,
  PushFloError,
  type SlugValidationResult,
  type Subscription,
  type SubscriptionOptions,
  toChannelSlug,
  validateChannelSlug,
  ValidationError,
} from '@pushflodev/sdk';

const LABELS: Record<ConnectionState, string> = {
  disconnected: 'Offline',
  connecting: 'Connecting…',
  connected: 'Online',
  error: 'Failed',
};

export function open(
  publishKey: string,
  baseUrl: string | undefined,
  say: (line: string) => void,
): PushFloClient {
  const options: ClientOptions = {
    publishKey,
    baseUrl,
    autoConnect: false,
    debug: false,
    connectionTimeout: 30_000,
    heartbeatInterval: 25_000,
    autoReconnect: true,
    maxReconnectAttempts: 0,
    reconnectDelay: 1_000,
    maxReconnectDelay: 30_000,
  };
  const client = new PushFloClient(options);
  const stop: () => void = client.onConnectionChange((state: ConnectionState) => say(LABELS[state]));
  client
    .on('message', (message: Message) => say(`${message.channel}: ${message.content.title}`))
    .on('connected', (info: ConnectionInfo) => say(`as ${info.clientId} at ${info.timestamp}`))
    .on('disconnected', (reason?: string) => say(`left: ${reason?.toLowerCase() ?? 'no reason'}`))
    .on('error', (error: Error) => say(error.message))
    .once('connected', stop);
  const handlers: SubscriptionOptions = {
    onMessage: (message) => say(`${message.eventType} of ${message.clientId.length} at ${message.timestamp}`),
    onError: (error: Error) => say(error.message),
    onSubscribed: () => say('subscribed'),
    onUnsubscribed: () => say('unsubscribed'),
  };
  const subscription: Subscription = client.subscribe('notifications', handlers);
  say(
    `${subscription.channel} ${client.isSubscribed('notifications')} ${client.getSubscribedChannels().join()}`,
  );
  say(`${client.listenerCount('message')} ${client.eventNames().length} ${client.clientId ?? 'none'}`);
  return client;
}

export async function connect(client: PushFloClient): Promise<string> {
  try {
    await client.connect();
    return client.connectionState;
  } catch (error) {
    if (error instanceof AuthenticationError) return `key: ${error.message}`;
    if (error instanceof ConnectionError) return `connection: ${error.code} ${error.retryable}`;
    if (error instanceof NetworkError) return `network: ${error.statusCode ?? error.cause?.message}`;
    if (error instanceof ValidationError) return `field: ${error.field}`;
    if (error instanceof PushFloError) return JSON.stringify(error.toJSON());
    throw error;
  }
}

export function slugs(text: string): [boolean, string, SlugValidationResult, number, number] {
  return [
    isValidChannelSlug(text),
    toChannelSlug(text),
    validateChannelSlug(text),
    MIN_SLUG_LENGTH,
    MAX_SLUG_LENGTH,
  ];
}

export interface Everything {
  channel: Channel;
  input: ChannelInput;
  update: ChannelUpdateInput;
  list: ListChannelsOptions;
  history: MessageHistoryOptions;
  pages: Pagination;
  options: PublishOptions;
  result: PublishResult;
}
