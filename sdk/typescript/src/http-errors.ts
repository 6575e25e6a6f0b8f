/** Errors of HTTP requests. They are apart, so that a page that makes none does not load them. */
import {
  AuthenticationError,
  type ErrorCode,
  type ErrorContext,
  ForbiddenError,
  isRetryable,
  PushFloError,
} from './errors';

/** An HTTP request was refused, or had no answer. */
export class NetworkError extends PushFloError {
  override name = 'NetworkError';
  /** HTTP status, where there was an answer; the same as `status`. */
  declare readonly statusCode?: number;

  constructor(
    message: string,
    code: ErrorCode = 'NETWORK_ERROR',
    context: ErrorContext & { statusCode?: number } = {},
  ) {
    const status = context.statusCode ?? context.status;
    super(message, code, { retryable: true, ...context, status });
    if (status !== undefined) this.statusCode = status;
  }

  static fromFetch(cause: Error): NetworkError {
    return new NetworkError(`Network request failed: ${cause.message}`, 'NETWORK_ERROR', { cause });
  }

  static timeout(ms: number): NetworkError {
    return new NetworkError(`Request timed out after ${ms}ms`, 'REQUEST_TIMEOUT');
  }

  static fromStatus(status: number, message = `the answer was ${status}`): NetworkError {
    const error = httpErrorOf(codeOf(status), message, { status });
    return error instanceof NetworkError
      ? error
      : new NetworkError(message, error.code, { status, retryable: false });
  }
}

/** There is no such thing. */
export class NotFoundError extends NetworkError {
  override name = 'NotFoundError';
}

/** There is such a thing already, or an idempotency key was used for something else. */
export class ConflictError extends NetworkError {
  override name = 'ConflictError';
}

/** Too many in a time, or more than the plan has. `retryAfter` says when to come back. */
export class RateLimitError extends NetworkError {
  override name = 'RateLimitError';
}

/** The server failed, or is full for the moment. */
export class ServerError extends NetworkError {
  override name = 'ServerError';
}

/** What an HTTP status means where no code came with it. */
export function codeOf(status: number): ErrorCode {
  return CODES[status] ?? (status < 500 ? 'VALIDATION_ERROR' : 'SERVER_ERROR');
}

const CODES: Record<number, ErrorCode> = {
  401: 'UNAUTHORIZED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  409: 'CONFLICT',
  413: 'PAYLOAD_TOO_LARGE',
  429: 'RATE_LIMITED',
};

/** The error for a code in an answer, of the class that belongs to it. */
export function httpErrorOf(code: string, message: string, context: ErrorContext = {}): PushFloError {
  const whole = { retryable: isRetryable(code), ...context };
  if (code === 'FORBIDDEN') return new ForbiddenError(message, code, whole);
  if (code === 'UNAUTHORIZED') return new AuthenticationError(message, code, whole);
  return new (CLASSES[code] ?? NetworkError)(message, code, whole);
}

const CLASSES: Record<string, typeof NetworkError | undefined> = {
  NOT_FOUND: NotFoundError,
  CONFLICT: ConflictError,
  RATE_LIMITED: RateLimitError,
  QUOTA_EXCEEDED: RateLimitError,
  OVERLOADED: ServerError,
  SERVER_ERROR: ServerError,
};
