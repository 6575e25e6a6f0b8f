/**
 * Errors: every way in which PushFlo says no or cannot be reached. The `code` is the server's, or one
 * that only a client can have; the class follows from it.
 */

/** A reason that programs can tell apart. A later server may have others. */
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
  /** A node of the cluster is out of reach: it may have been done. */
  | 'UNKNOWN_OUTCOME'
  | 'SERVER_ERROR'
  /** No key was given. */
  | 'MISSING_PUBLISH_KEY'
  | 'MISSING_SECRET_KEY'
  /** What was given is no key. */
  | 'INVALID_API_KEY'
  /** The WebSocket: it could not be opened, not in time, or was lost. */
  | 'CONNECTION_FAILED'
  | 'CONNECTION_TIMEOUT'
  | 'CONNECTION_CLOSED'
  /** It was lost and could not be opened again as often as that was to be tried. */
  | 'MAX_RECONNECT_ATTEMPTS'
  /** HTTP: the server was not reached, did not answer in time, or something else answered. */
  | 'NETWORK_ERROR'
  | 'REQUEST_TIMEOUT'
  | 'PARSE_ERROR'
  /** The caller's `signal` ended it. */
  | 'ABORTED'
  /** There is no connection, and none is being made. */
  | 'NOT_CONNECTED'
  /** `getToken` failed. */
  | 'TOKEN_ERROR'
  | (string & {});

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
  /** Whether the same call may succeed later; otherwise as it is for errors of that class. */
  retryable?: boolean;
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
  declare readonly cause?: Error;

  constructor(message: string, code: ErrorCode, context: ErrorContext = {}) {
    const { cause } = context;
    const error = cause instanceof Error ? cause : new Error(String(cause));
    super(message, cause === undefined ? undefined : { cause: error });
    this.code = code;
    this.retryable = context.retryable ?? false;
    for (const name of ['status', 'details', 'retryAfter', 'channel'] as const) {
      if (context[name] !== undefined) Object.assign(this, { [name]: context[name] });
    }
  }

  /** What `JSON.stringify` makes of it: of an error it would leave the message out. */
  toJSON(): object {
    const { name, message, stack, cause } = this;
    return Object.assign({ name, message, stack, cause: cause?.message }, this);
  }

  override toString(): string {
    return `${this.name} [${this.code}]: ${this.message}`;
  }
}

/** The call is wrong in itself: a field, a name, an option. Nothing was sent. */
export class ValidationError extends PushFloError {
  override name = 'ValidationError';
  /** What is wrong, where it is one thing. */
  declare readonly field?: string;

  constructor(message: string, field?: string, context: ErrorContext & { code?: ErrorCode } = {}) {
    super(message, context.code ?? 'VALIDATION_ERROR', context);
    if (field !== undefined) this.field = field;
  }

  static required(field: string): ValidationError {
    return new ValidationError(`${field} is required`, field);
  }

  static invalidChannelSlug(slug: string): ValidationError {
    return new ValidationError(`Invalid channel slug: '${slug}'`, 'slug');
  }
}

/** The key or token is missing, unknown, expired, or may not do this. */
export class AuthenticationError extends PushFloError {
  override name = 'AuthenticationError';

  constructor(message: string, code: ErrorCode = 'UNAUTHORIZED', context?: ErrorContext) {
    super(message, code, context);
  }

  /** `kind` is what it should be: `publish` or `secret`. */
  static invalidKey(kind?: string): AuthenticationError {
    return new AuthenticationError(`Invalid ${kind ? `${kind} ` : ''}API key`, 'INVALID_API_KEY');
  }

  static unauthorized(reason = 'Unauthorized: check your API key'): AuthenticationError {
    return new AuthenticationError(reason);
  }

  static forbidden(action?: string): AuthenticationError {
    return new ForbiddenError(`Access forbidden${action ? `: ${action}` : ''}`);
  }
}

/** The key or token is known and may not do this. */
export class ForbiddenError extends AuthenticationError {
  override name = 'ForbiddenError';

  constructor(message: string, code: ErrorCode = 'FORBIDDEN', context?: ErrorContext) {
    super(message, code, context);
  }
}

/** The WebSocket could not be opened, or was lost. */
export class ConnectionError extends PushFloError {
  override name = 'ConnectionError';

  constructor(message: string, code: ErrorCode = 'CONNECTION_FAILED', context?: ErrorContext) {
    super(message, code, { retryable: true, ...context });
  }

  static timeout(ms: number): ConnectionError {
    return new ConnectionError(`Connection timed out after ${ms}ms`, 'CONNECTION_TIMEOUT');
  }

  static closed(reason?: string): ConnectionError {
    return new ConnectionError(`Connection closed${reason ? `: ${reason}` : ''}`, 'CONNECTION_CLOSED');
  }

  static failed(reason?: string, cause?: Error): ConnectionError {
    return new ConnectionError(`Connection failed${reason ? `: ${reason}` : ''}`, 'CONNECTION_FAILED', {
      cause,
    });
  }
}

/** The error for a code that came over the WebSocket, or that only a client has. */
export function errorOf(code: string, message: string, context: ErrorContext = {}): PushFloError {
  const whole = { retryable: isRetryable(code), ...context };
  if (code === 'FORBIDDEN') return new ForbiddenError(message, code, whole);
  if (code === 'UNAUTHORIZED') return new AuthenticationError(message, code, whole);
  if (code === 'VALIDATION_ERROR' || code === 'PAYLOAD_TOO_LARGE') {
    return new ValidationError(message, undefined, { ...whole, code });
  }
  return OF_CONNECTIONS.test(code)
    ? new ConnectionError(message, code, whole)
    : new PushFloError(message, code, whole);
}

const OF_CONNECTIONS = /CONNECT|TOKEN/;

/** Whether the same call may succeed later, after an error with this code. */
export function isRetryable(code: string): boolean {
  return /^(CONNECTION_|TOKEN_ERROR$|SERVER_ERROR$|OVERLOADED$|UNKNOWN_OUTCOME$|RATE_LIMITED$)/.test(code);
}
