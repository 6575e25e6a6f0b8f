/**
 * HTTP calls: one place that sends, waits, tries again and turns failures into errors.
 *
 * A call is tried again only where that cannot do harm: reads, calls with an idempotency key, and
 * calls that the server says it has not begun.
 */
import { VISIBLE_ASCII } from '../check';
import { type ErrorContext, PushFloError, ValidationError } from '../errors';
import { codeOf, httpErrorOf, NetworkError } from '../http-errors';
import { log, type LogTarget } from '../log';

export interface RequestSettings {
  baseUrl: string;
  secretKey: string;
  /** Milliseconds for one attempt, with its answer. */
  timeout: number;
  /** Attempts in all; 0 for as many as `retryTimeout` leaves room for. */
  retryAttempts: number;
  /** Milliseconds for all attempts and the waits between them, from which on none begins. */
  retryTimeout: number;
  fetch: typeof fetch;
  debug?: LogTarget;
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
  /** Ends the call, between attempts too. */
  signal?: AbortSignal;
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
  const body = encoded(call);
  checkHeader('idempotencyKey', call.idempotencyKey);
  const untilMs = Date.now() + settings.retryTimeout;
  for (let attempt = 1; ; attempt++) {
    try {
      return await once<T>(settings, call, body);
    } catch (error) {
      if (!(error instanceof PushFloError)) throw error;
      const ms = waitMs(error, attempt);
      const isLast = attempt === settings.retryAttempts || Date.now() + ms > untilMs;
      log(settings.debug, `${call.method} ${call.path}: ${error}`);
      if (isLast || !mayRepeat(error, call)) {
        // It was deleted by an attempt whose answer was lost.
        const isDone = call.method === 'DELETE' && attempt > 1 && error.code === 'NOT_FOUND';
        if (isDone) return { data: undefined as T };
        throw error;
      }
      await pause(ms, call.signal);
    }
  }
}

/** The body as it is sent. @throws {ValidationError} for what JSON cannot say, before anything is sent. */
function encoded({ body }: Call): string | undefined {
  try {
    return body === undefined ? undefined : JSON.stringify(body);
  } catch (cause) {
    throw new ValidationError(`what is sent must be JSON: ${reasonOf(cause)}`, undefined, { cause });
  }
}

/** @throws {ValidationError} for what no header may carry. */
function checkHeader(name: string, value: unknown): void {
  if (value === undefined || (typeof value === 'string' && VISIBLE_ASCII.test(value))) return;
  throw new ValidationError(`${name} must be visible ASCII characters without blanks`, name);
}

async function once<T>(settings: RequestSettings, call: Call, body?: string): Promise<Answer<T>> {
  const { signal } = call;
  if (signal?.aborted) throw aborted(signal);
  const abort = new AbortController();
  const stop = () => abort.abort();
  const timer = setTimeout(stop, settings.timeout);
  signal?.addEventListener('abort', stop);
  try {
    const response = await settings.fetch(address(settings, call), {
      method: call.method,
      headers: headers(settings, call),
      body,
      signal: abort.signal,
      // Next.js before 15 would keep answers otherwise; `cache` is not known to all edge runtimes.
      ...({ next: { revalidate: 0 } } as RequestInit),
    });
    const text = await response.text();
    log(settings.debug, `${call.method} ${call.path}: ${response.status}`);
    if (!response.ok) throw refusal(settings, response, text);
    return text ? parsed<T>(settings, response, text) : { data: undefined as T };
  } catch (cause) {
    if (cause instanceof PushFloError) throw cause;
    if (signal?.aborted) throw aborted(signal);
    if (abort.signal.aborted) {
      throw new NetworkError(`no answer came within ${settings.timeout} ms`, 'REQUEST_TIMEOUT', { cause });
    }
    const text = `cannot reach ${settings.baseUrl}: ${reasonOf(cause)}`;
    throw new NetworkError(text.replaceAll(settings.secretKey, '…'), 'NETWORK_ERROR', { cause });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

function aborted({ reason }: AbortSignal): NetworkError {
  return new NetworkError('the call was aborted', 'ABORTED', { retryable: false, cause: reason });
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

function parsed<T>(settings: RequestSettings, response: Response, text: string): Answer<T> {
  try {
    return JSON.parse(text) as Answer<T>;
  } catch (cause) {
    const { status } = response;
    throw new NetworkError(foreign(settings, status), 'PARSE_ERROR', { status, retryable: false, cause });
  }
}

/** What is said where something else than PushFlo has answered. */
function foreign({ baseUrl }: RequestSettings, status: number): string {
  return `${baseUrl} answered ${status}, and not as PushFlo does: is it the address of your PushFlo?`;
}

/** The error in an answer; a proxy's answer may not be the server's JSON. */
function refusal(settings: RequestSettings, response: Response, text: string): PushFloError {
  const { status } = response;
  const context: ErrorContext = { status };
  const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
  if (Number.isFinite(retryAfter)) context.retryAfter = retryAfter;
  try {
    const { error, code, details } = JSON.parse(text);
    if (details) context.details = details;
    if (code) return httpErrorOf(code, error, context);
  } catch {
    // The status says enough.
  }
  return httpErrorOf(codeOf(status), foreign(settings, status), context);
}

function mayRepeat(error: PushFloError, call: Call): boolean {
  // Refused before anything was done.
  if (error.code === 'RATE_LIMITED' || error.code === 'OVERLOADED') return true;
  const isSafe = call.method === 'GET' || call.isRepeatable || call.idempotencyKey !== undefined;
  return error.retryable && isSafe;
}

function waitMs({ retryAfter }: PushFloError, attempt: number): number {
  const grownMs = Math.min(RETRY_MS * 2 ** (attempt - 1), RETRY_MAX_MS);
  if (retryAfter !== undefined) return retryAfter * 1000 + grownMs * Math.random();
  return grownMs * (0.5 + Math.random() / 2);
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(aborted(signal!));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/** Node's `fetch` hides the reason in the cause. */
function reasonOf(error: unknown): string {
  const { cause, message } = error as { cause?: { code?: string; message?: string }; message?: string };
  return cause?.code ?? cause?.message ?? message ?? String(error);
}

/** The first wait before trying again. */
const RETRY_MS = 200;
const RETRY_MAX_MS = 5_000;
