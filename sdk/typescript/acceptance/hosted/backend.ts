/** A backend as it is written for version 1.0.8 of the hosted service's SDK. */
import {
  AuthenticationError,
  type Channel,
  type ChannelInput,
  type ChannelUpdateInput,
  type ListChannelsOptions,
  type Message,
  type MessageHistoryOptions,
  NetworkError,
  type Pagination,
  type PublishOptions,
  type PublishResult,
  PushFloError,
  PushFloServer,
  type ServerOptions,
  toChannelSlug,
  ValidationError,
} from '@pushflodev/sdk/server';

export async function backend(secretKey: string, baseUrl: string | undefined): Promise<unknown[]> {
  const options: ServerOptions = {
    secretKey,
    baseUrl,
    consoleUrl: baseUrl,
    timeout: 30_000,
    debug: false,
    retryAttempts: 3,
  };
  const pushflo = new PushFloServer(options);
  const slug: string = toChannelSlug('Order Updates');
  const input: ChannelInput = { name: 'Order Updates', slug, description: 'As they come', isPrivate: false };
  const made: Channel = await pushflo.createChannel(input);
  const change: ChannelUpdateInput = { description: 'Updated', metadata: { team: 'shop' } };
  const updated: Channel = await pushflo.updateChannel(slug, change);
  const how: PublishOptions = { eventType: 'order.shipped' };
  const result: PublishResult = await pushflo.publish(slug, { orderId: '123' }, how);
  await pushflo.publish(slug, { orderId: '124' });
  const which: MessageHistoryOptions = { page: 1, pageSize: 50, eventType: 'order.shipped' };
  const history: { messages: Message[]; pagination: Pagination } = await pushflo.getMessageHistory(
    slug,
    which,
  );
  const page: ListChannelsOptions = { page: 1, pageSize: 25 };
  const { channels, pagination } = await pushflo.listChannels(page);
  const seen: [string, number] = [(await pushflo.getChannel(slug)).name, pagination.total];
  await pushflo.deleteChannel(slug);
  const clientId: string = result.clientId;
  return [
    made.slug,
    updated.description,
    result.channelSlug,
    result.eventType,
    clientId,
    result.delivered,
    history.messages.map(({ id, channel, content }) => [id === result.id, channel, content]),
    [history.pagination.page, history.pagination.totalPages],
    channels.map((channel) => channel.slug),
    seen,
    new Date(result.createdAt).toISOString() === result.createdAt,
  ];
}

export async function failure(call: () => Promise<unknown>): Promise<unknown> {
  try {
    await call();
    return undefined;
  } catch (error) {
    if (error instanceof ValidationError) return ['validation', error.code, error.field];
    if (error instanceof AuthenticationError) return ['authentication', error.code, error.retryable];
    if (error instanceof NetworkError) return ['network', error.code, error.statusCode, error.retryable];
    if (error instanceof PushFloError) return ['other', error.code];
    throw error;
  }
}
