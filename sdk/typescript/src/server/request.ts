/**
 * HTTP calls: one place that sends, waits, tries again and turns failures into errors.
 *
 * A call is tried again only where that cannot do harm: reads, calls with an idempotency key, and
 * calls that the server says it has not begun.
 */
import { type ErrorContext, errorOf, PushFloError } from '../errors';

export interface RequestSettings {
  baseUrl: string;
  secretKey: string;
  /** Milliseconds for one attempt, with its answer. */
  timeout: number;
  /** Attempts after the first. */
  retryAttempts: number;
  fetch: typeof fetch;
}

export interface Call {
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  /** After the base URL, with a slash. */
  path: string;
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  /** Makes trying again safe: the server answers a repetition with the first answer. */
  idempotencyKey?: string;
  /** Whether doing it twice is the same as doing it once. */
  isRepeatable?: boolean;
}

/** The `data` of the answer, and what lists have beside it. */
export interface Answer<T> {
  data: T;
  pagination?: Pagination;
}

export interface Pagination {
  page: number;
  pageSize: number;
  total: number;
  totalPages: number;
}

/** Calls, and tries again as the call allows. @throws {PushFloError} */
export async function request<T>(settings: RequestSettings, call: Call): Promise<Answer<T>> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await once<T>(settings, call);
    } catch (error) {
      const isLast = attempt >= settings.retryAttempts;
      if (!(error instanceof PushFloError) || isLast || !mayRepeat(error, call)) {
        // It was deleted by an attempt whose answer was lost.
        if (call.method === 'DELETE' && attempt > 0 && isNotFound(error)) return { data: undefined as T };
        throw error;
      }
      await pause(waitMs(error, attempt));
    }
  }
}

async function once<T>(settings: RequestSettings, call: Call): Promise<Answer<T>> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), settings.timeout);
  try {
    const response = await settings.fetch(address(settings, call), {
      method: call.method,
      headers: headers(settings, call),
      body: call.body === undefined ? undefined : JSON.stringify(call.body),
      signal: abort.signal,
      // Next.js before 15 would keep answers otherwise; `cache` is not known to all edge runtimes.
      ...({ next: { revalidate: 0 } } as RequestInit),
    });
    const text = await response.text();
    if (!response.ok) throw refusal(response, text);
    return text ? (JSON.parse(text) as Answer<T>) : { data: undefined as T };
  } catch (cause) {
    if (cause instanceof PushFloError) throw cause;
    if (abort.signal.aborted) {
      throw errorOf('TIMEOUT', `no answer came within ${settings.timeout} ms`, { cause });
    }
    throw errorOf('CONNECTION_ERROR', `cannot reach ${settings.baseUrl}: ${reasonOf(cause)}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

function address({ baseUrl }: RequestSettings, { path, query = {} }: Call): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return `${baseUrl}${path}${text && `?${text}`}`;
}

function headers({ secretKey }: RequestSettings, { body, idempotencyKey }: Call): Record<string, string> {
  return {
    Authorization: `Bearer ${secretKey}`,
    ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
    ...(idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
  };
}

/** The error in an answer; a proxy's answer may not be the server's JSON. */
function refusal(response: Response, text: string): PushFloError {
  const { status } = response;
  const context: ErrorContext = { status };
  const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
  if (Number.isFinite(retryAfter)) context.retryAfter = retryAfter;
  try {
    const { error, code, details } = JSON.parse(text);
    if (details) context.details = details;
    if (code) return errorOf(code, error, context);
  } catch {
    // The status says enough.
  }
  return errorOf(
    CODES[status] ?? (status < 500 ? 'VALIDATION_ERROR' : 'SERVER_ERROR'),
    `the answer was ${status}`,
    context,
  );
}

/** What a status means where no code came with it. */
const CODES: Record<number, string> = {
  401: 'UNAUTHORIZED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  409: 'CONFLICT',
  413: 'PAYLOAD_TOO_LARGE',
  429: 'RATE_LIMITED',
};

function mayRepeat(error: PushFloError, call: Call): boolean {
  // Refused before anything was done.
  if (error.code === 'RATE_LIMITED' || error.code === 'OVERLOADED') return true;
  const isSafe = call.method === 'GET' || call.isRepeatable || call.idempotencyKey !== undefined;
  return error.retryable && isSafe;
}

function waitMs({ retryAfter }: PushFloError, attempt: number): number {
  const grownMs = Math.min(RETRY_MS * 2 ** attempt, RETRY_MAX_MS);
  if (retryAfter !== undefined)
    return Math.min(retryAfter * 1000, RETRY_AFTER_MAX_MS) + grownMs * Math.random();
  return grownMs * (0.5 + Math.random() / 2);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function isNotFound(error: unknown): boolean {
  return error instanceof PushFloError && error.code === 'NOT_FOUND';
}

/** Node's `fetch` hides the reason in the cause. */
function reasonOf(error: unknown): string {
  const { cause, message } = error as { cause?: { code?: string; message?: string }; message?: string };
  return cause?.code ?? cause?.message ?? message ?? String(error);
}

/** The first wait before trying again. */
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
/** The longest wait that a server may ask for. */
const RETRY_AFTER_MAX_MS = 30_000;
