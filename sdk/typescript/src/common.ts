/** What pages and backends both have of this package. */
export type { Member } from './core/wire';
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
export {
  isValidChannelSlug,
  MAX_SLUG_LENGTH,
  MIN_SLUG_LENGTH,
  toChannelSlug,
  validateChannelSlug,
} from './slug';
export type { SlugValidationResult } from './slug';
