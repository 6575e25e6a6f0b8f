/**
 * Errors: every way in which PushFlo says no or cannot be reached. The `code` is the server's, or
 * one of the few below that only a client can have; the class follows from it.
 */

/** A reason that programs can tell apart. */
export type ErrorCode =
  | 'VALIDATION_ERROR'
  | 'UNAUTHORIZED'
  | 'FORBIDDEN'
  | 'NOT_FOUND'
  | 'CONFLICT'
  | 'PAYLOAD_TOO_LARGE'
  | 'RATE_LIMITED'
  | 'QUOTA_EXCEEDED'
  | 'OVERLOADED'
  | 'SERVER_ERROR'
  /** The server cannot be reached, or the connection was lost. */
  | 'CONNECTION_ERROR'
  /** No answer came in time. */
  | 'TIMEOUT'
  /** There is no connection, and none is being made. */
  | 'NOT_CONNECTED'
  /** `getToken` failed. */
  | 'TOKEN_ERROR';

/** What is known of an error besides its code and sentence. */
export interface ErrorContext {
  /** HTTP status, where there was an answer. */
  status?: number;
  /** What is wrong with each field, by its name. */
  details?: Record<string, string[]>;
  /** Seconds after which the server wants to be asked again. */
  retryAfter?: number;
  /** The channel it concerns. */
  channel?: string;
  /** What it was caused by. */
  cause?: unknown;
}

/** What all errors of this package are. */
export class PushFloError extends Error {
  override name = 'PushFloError';
  readonly code: ErrorCode;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  declare readonly status?: number;
  declare readonly details?: Record<string, string[]>;
  /** Seconds. */
  declare readonly retryAfter?: number;
  declare readonly channel?: string;
  declare readonly cause?: unknown;

  constructor(message: string, code: ErrorCode, context: ErrorContext = {}) {
    super(message);
    this.code = code;
    this.retryable = RETRYABLE.has(code);
    Object.assign(this, context);
  }
}

/** The request is wrong in itself: a field, a name, a size. */
export class ValidationError extends PushFloError {
  override name = 'ValidationError';
  constructor(message: string, code: ErrorCode = 'VALIDATION_ERROR', context?: ErrorContext) {
    super(message, code, context);
  }
}

/** The key or token is missing, unknown or expired. */
export class AuthenticationError extends PushFloError {
  override name = 'AuthenticationError';
}

/** The key or token is known and may not do this. */
export class ForbiddenError extends PushFloError {
  override name = 'ForbiddenError';
}

/** There is no such thing. */
export class NotFoundError extends PushFloError {
  override name = 'NotFoundError';
}

/** There is such a thing already, or an idempotency key was used for something else. */
export class ConflictError extends PushFloError {
  override name = 'ConflictError';
}

/** Too many in a time, or more than the plan has. `retryAfter` says when to come back. */
export class RateLimitError extends PushFloError {
  override name = 'RateLimitError';
}

/** The server failed, or is full for the moment. */
export class ServerError extends PushFloError {
  override name = 'ServerError';
}

/** The server was not reached, did not answer in time, or the connection ended. */
export class ConnectionError extends PushFloError {
  override name = 'ConnectionError';
}

/** The error for a code, of the class that belongs to it. */
export function errorOf(code: string, message: string, context?: ErrorContext): PushFloError {
  const Class = CLASSES[code as ErrorCode];
  return Class
    ? new Class(message, code as ErrorCode, context)
    : new ServerError(message, 'SERVER_ERROR', context);
}

const RETRYABLE = new Set<ErrorCode>([
  'RATE_LIMITED',
  'OVERLOADED',
  'SERVER_ERROR',
  'CONNECTION_ERROR',
  'TIMEOUT',
  'TOKEN_ERROR',
]);

type ErrorClass = new (message: string, code: ErrorCode, context?: ErrorContext) => PushFloError;

const CLASSES: Record<ErrorCode, ErrorClass> = {
  VALIDATION_ERROR: ValidationError,
  PAYLOAD_TOO_LARGE: ValidationError,
  UNAUTHORIZED: AuthenticationError,
  FORBIDDEN: ForbiddenError,
  NOT_FOUND: NotFoundError,
  CONFLICT: ConflictError,
  RATE_LIMITED: RateLimitError,
  QUOTA_EXCEEDED: RateLimitError,
  OVERLOADED: ServerError,
  SERVER_ERROR: ServerError,
  CONNECTION_ERROR: ConnectionError,
  TIMEOUT: ConnectionError,
  NOT_CONNECTED: ConnectionError,
  TOKEN_ERROR: ConnectionError,
};
