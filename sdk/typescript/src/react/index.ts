/** `@pushflodev/sdk/react`: one connection for a tree of components, and hooks that use it. */
export { PushFloProvider, usePushFloContext } from './provider';
export type { PushFloContextValue, PushFloProviderProps } from './provider';
export { usePushFlo } from './use-pushflo';
export type { UsePushFloResult } from './use-pushflo';
export { useChannel } from './use-channel';
export type { UseChannelOptions, UseChannelResult } from './use-channel';
export { usePresence } from './use-presence';
export type { UsePresenceResult } from './use-presence';
export type { ConnectionState, Message, Subscription, SubscriptionOptions } from '@pushflodev/sdk';
