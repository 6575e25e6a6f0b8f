/** `@pushflodev/sdk/react`: one connection for a tree of components, and hooks that use it. */
export { PushFloProvider } from './provider';
export type { PushFloProviderProps } from './provider';
export { usePushFlo } from './use-pushflo';
export type { PushFloConnection } from './use-pushflo';
export { useChannel } from './use-channel';
export type { ChannelMessages, UseChannelOptions } from './use-channel';
export { usePresence } from './use-presence';
export type { ChannelPresence } from './use-presence';
