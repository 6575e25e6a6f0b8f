/** `@pushflodev/sdk`: realtime channels for browsers, edge runtimes and Node. */
export { PushFloClient } from './client';
export type { ClientEvents, ConnectionInfo, DisconnectInfo, PublishReceipt, PublishRequest } from './client';
export type { ConnectionState } from './core/effects';
export type { Member, Replay, StreamPosition } from './core/wire';
export {
  AuthenticationError,
  ConnectionError,
  ForbiddenError,
  PushFloError,
  ValidationError,
} from './errors';
export type { ErrorCode, ErrorContext } from './errors';
export { ConflictError, NetworkError, NotFoundError, RateLimitError, ServerError } from './http-errors';
export type { Message } from './message';
export type { ClientOptions, Token, WebSocketConstructor, WebSocketLike } from './options';
export {
  isValidChannelSlug,
  MAX_SLUG_LENGTH,
  MIN_SLUG_LENGTH,
  toChannelSlug,
  validateChannelSlug,
} from './slug';
export type { SlugValidationResult } from './slug';
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
