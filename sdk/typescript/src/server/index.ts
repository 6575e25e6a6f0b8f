/** `@pushflodev/sdk/server`: publishing and management, for backends and serverless functions. */
export { PushFloServer } from './server';
export type { PublishOptions, ServerOptions } from './server';
export { signToken } from './token';
export type { TokenGrant } from './token';
export type { Pagination } from './request';
export type * from './types';
export type { Member } from '../core/wire';
export type { Message } from '../message';
export {
  isValidChannelSlug,
  MAX_SLUG_LENGTH,
  MIN_SLUG_LENGTH,
  toChannelSlug,
  validateChannelSlug,
} from '../slug';
export type { SlugValidationResult } from '../slug';
export {
  AuthenticationError,
  ConnectionError,
  ForbiddenError,
  PushFloError,
  ValidationError,
} from '../errors';
export type { ErrorCode, ErrorContext } from '../errors';
export { ConflictError, NetworkError, NotFoundError, RateLimitError, ServerError } from '../http-errors';
