/** @vitest-environment jsdom */
import { afterEach, expect, it, vi } from 'vitest';
import { resolveBaseUrl, socketUrl } from '../src/address';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.unstubAllGlobals();
});

it('is what was given, before the environment, before the default', () => {
  expect(resolveBaseUrl()).toBe('http://127.0.0.1:7070');
  vi.stubEnv('PUSHFLO_URL', 'https://one.test');
  expect(resolveBaseUrl()).toBe('https://one.test');
  vi.stubEnv('NEXT_PUBLIC_PUSHFLO_URL', 'https://two.test/push/');
  expect(resolveBaseUrl()).toBe('https://two.test/push');
  expect(resolveBaseUrl('http://three.test/')).toBe('http://three.test');
});

it('may be relative to the page', () => {
  expect(resolveBaseUrl('/')).toBe(location.origin);
  expect(resolveBaseUrl('/push')).toBe(`${location.origin}/push`);
});

it('needs neither a page nor an environment', () => {
  vi.stubGlobal('location', undefined);
  vi.stubGlobal('process', undefined);
  expect(resolveBaseUrl()).toBe('http://127.0.0.1:7070');
});

it('is the same for WebSockets, with the token in it', () => {
  expect(socketUrl('https://a.test/push', 'a b')).toBe('wss://a.test/push/ws?token=a%20b');
});

it('is asked for in production, where the default means nothing', () => {
  vi.stubGlobal('location', { hostname: 'shop.test', href: 'https://shop.test/' });
  expect(() => resolveBaseUrl()).toThrow('NEXT_PUBLIC_PUSHFLO_URL');
  expect(resolveBaseUrl('/push')).toBe('https://shop.test/push');
  for (const hostname of ['localhost', '127.0.0.1', '[::1]', 'app.localhost']) {
    vi.stubGlobal('location', { hostname, href: `http://${hostname}/` });
    expect(resolveBaseUrl()).toBe('http://127.0.0.1:7070');
  }
  vi.stubGlobal('location', undefined);
  vi.stubEnv('NODE_ENV', 'production');
  expect(() => resolveBaseUrl()).toThrow('baseUrl is required');
});
