/** `@pushflodev/sdk`: realtime channels for browsers, edge runtimes and Node. */
export { PushFloClient } from './client';
export type { ClientEvents, PublishReceipt, PublishRequest } from './client';
export type { ConnectionState } from './core/effects';
export type { Member, Replay, StreamPosition } from './core/wire';
export * from './errors';
export type { Message } from './message';
export type { PushFloClientOptions, Token, WebSocketConstructor, WebSocketLike } from './options';
export { isValidChannelSlug, toChannelSlug, validateChannelSlug } from './slug';
export type { Gap, Presence, SubscribeOptions, Subscription } from './subscription';
