/**
 * Where the server is. Reads the environment only through literal `process.env.NAME`, the form that
 * bundlers replace with its value in code for the browser.
 */
import { ValidationError } from './errors';

/** Where PushFlo listens when nothing is configured. */
export const DEFAULT_BASE_URL = 'http://127.0.0.1:7070';

/**
 * The server's address without a slash at its end: `given`, else `NEXT_PUBLIC_PUSHFLO_URL`, else
 * `PUSHFLO_URL`, else {@link DEFAULT_BASE_URL}. In a page, `given` may be relative to it: `/` is the
 * page's own origin.
 */
export function resolveBaseUrl(given?: string): string {
  const url =
    given ||
    environment(() => process.env.NEXT_PUBLIC_PUSHFLO_URL) ||
    environment(() => process.env.PUSHFLO_URL) ||
    DEFAULT_BASE_URL;
  if (!/^(https?:\/)?\//.test(url)) {
    throw new ValidationError(`baseUrl must begin with http://, https:// or /, not ${JSON.stringify(url)}`);
  }
  const absolute = typeof location === 'object' ? new URL(url, location.href).href : url;
  return absolute.replace(/\/+$/, '');
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
