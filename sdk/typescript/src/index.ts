/** `@pushflodev/sdk`: realtime channels for browsers, edge runtimes and Node. */
export { PushFloClient } from './client';
export type { ClientEvents, ConnectionInfo, DisconnectInfo, PublishReceipt, PublishRequest } from './client';
export type { ConnectionState } from './core/effects';
export type { Replay, StreamPosition } from './core/wire';
export * from './common';
export type { ClientOptions, Token, WebSocketConstructor, WebSocketLike } from './options';
export type { Gap, Presence, Subscription, SubscriptionOptions } from './subscription';
export type { Pagination } from './server/request';
export type { PublishOptions, ServerOptions } from './server/server';
export type {
  Channel,
  ChannelInput,
  ChannelUpdateInput,
  ListChannelsOptions,
  MessageHistoryOptions,
  PublishResult,
} from './server/types';
