/**
 * Connection tokens made here instead of by the server: JWT, HS256, signed with a key that is derived
 * from the secret key, which itself never leaves the backend.
 */
import { webcrypto } from '#webcrypto';
import { ValidationError } from '../errors';

/** What a token grants. A pattern is a channel's name, or a prefix and `*`. */
export interface TokenGrant {
  /** Who the connection is; it stays the same over reconnects. */
  clientId?: string | undefined;
  /** Channels that may be subscribed to; without it all that are not private. */
  channels?: string[] | undefined;
  /** Channels that may be published to over the connection. */
  publish?: string[] | undefined;
  /** What others see of this client in presence, up to 1 KiB of JSON. */
  data?: unknown | undefined;
  /** Seconds, 1 to 86,400. Default 3,600. */
  ttl?: number | undefined;
}

/** Signs a token without asking the server. `nowMs` is the time from which it counts. */
export async function signToken(secretKey: string, grant: TokenGrant, nowMs = Date.now()): Promise<string> {
  const { clientId: sub, channels, publish, data, ttl = TTL_DEFAULT_S } = grant;
  if (!(ttl >= 1 && ttl <= TTL_MAX_S)) {
    throw new ValidationError(`ttl is 1 to ${TTL_MAX_S} seconds`, 'ttl');
  }
  const { subtle } = webcrypto;
  const digest = async (text: string) => hex(await subtle.digest('SHA-256', utf8(text)));
  const kid = `key_${(await digest(secretKey)).slice(0, KEY_ID_DIGITS)}`;
  const derived = utf8(await digest(`pushflo-token:${secretKey}`));
  const key = await subtle.importKey('raw', derived, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const exp = Math.floor(nowMs / 1000 + ttl);
  const claims = { aud: 'pushflo', exp, sub, channels, publish, data };
  const signed = `${base64url(json({ alg: 'HS256', typ: 'JWT', kid }))}.${base64url(json(claims))}`;
  return `${signed}.${base64url(new Uint8Array(await subtle.sign('HMAC', key, utf8(signed))))}`;
}

function json(value: unknown): Uint8Array<ArrayBuffer> {
  return utf8(JSON.stringify(value));
}

function utf8(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function hex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function base64url(bytes: Uint8Array): string {
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
  return text.replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

const TTL_DEFAULT_S = 3_600;
const TTL_MAX_S = 86_400;
/** Hex digits of a key's hash that make its id. */
const KEY_ID_DIGITS = 16;
