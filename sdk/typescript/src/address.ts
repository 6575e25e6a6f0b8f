/**
 * Where the server is. Reads the environment only through literal `process.env.NAME`, the form that
 * bundlers replace with its value in code for the browser.
 */
import { ValidationError } from './errors';

/** Where PushFlo listens on the machine of a developer, when nothing is configured. */
const LOCAL_BASE_URL = 'http://127.0.0.1:7070';

/**
 * The server's address without a slash at its end: `given`, else `NEXT_PUBLIC_PUSHFLO_URL`, else
 * `PUSHFLO_URL`, else, on the machine of a developer, `http://127.0.0.1:7070`. In a page, `given` may be
 * relative to it: `/` is the page's own origin.
 * @throws {ValidationError} for what is no address, and in production where there is none.
 */
export function resolveBaseUrl(given?: string): string {
  const url =
    given ||
    environment(() => process.env.NEXT_PUBLIC_PUSHFLO_URL) ||
    environment(() => process.env.PUSHFLO_URL) ||
    localBaseUrl();
  if (!/^(https?:\/)?\//.test(url)) {
    throw new ValidationError(`baseUrl must begin with http://, https:// or /, not ${url}`, 'baseUrl');
  }
  const absolute = typeof location === 'object' ? new URL(url, location.href).href : url;
  return absolute.replace(/\/+$/, '');
}

/** Nobody is served by an address that only means something to the developer. */
function localBaseUrl(): string {
  const isPage = typeof location === 'object' && typeof document === 'object';
  const isLocal = isPage
    ? /^$|^127\.|^\[::1\]$|(^|\.)localhost$/.test(location.hostname)
    : environment(() => process.env.NODE_ENV) !== 'production';
  if (isLocal) return LOCAL_BASE_URL;
  throw new ValidationError('baseUrl is required: give it, or set NEXT_PUBLIC_PUSHFLO_URL', 'baseUrl');
}

/** The WebSocket address that belongs to a base URL. */
export function socketUrl(baseUrl: string, token: string): string {
  return `${baseUrl.replace(/^http/, 'ws')}/ws?token=${encodeURIComponent(token)}`;
}

/** An environment variable, where there is an environment: pages have no `process`. */
export function environment(read: () => string | undefined): string | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
