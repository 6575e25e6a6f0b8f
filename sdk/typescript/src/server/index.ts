/** `@pushflodev/sdk/server`: publishing and management, for backends and serverless functions. */
export { PushFloServer } from './server';
export type { PublishOptions, ServerOptions } from './server';
export { signToken } from './token';
export type { TokenGrant } from './token';
export type { Pagination } from './request';
export type * from './types';
export * from '../common';
