/**
 * Channel slugs: the names of channels.
 *
 * Two alphabets exist. A slug is what the helpers here make and check: `a-z`, `0-9` and single inner
 * hyphens, safe in every address. The server also takes names such as `orders:user-123`; what it
 * takes is checked before it is sent, because a name it refuses cannot be told from another.
 */
import { ValidationError } from './errors';

/** The most characters a channel name may have. */
export const SLUG_LENGTH_MAX = 128;

/** Whether `slug` is made of `a-z`, `0-9` and single inner hyphens, 1 to 128 characters. */
export function isValidChannelSlug(slug: string): boolean {
  return slug.length <= SLUG_LENGTH_MAX && /^[a-z0-9]+(-[a-z0-9]+)*$/.test(slug);
}

/** Returns `slug` when it is valid. @throws {ValidationError} that says what is wrong with it. */
export function validateChannelSlug(slug: string): string {
  if (isValidChannelSlug(slug)) return slug;
  throw new ValidationError(
    `the channel slug ${quote(slug)} ${flaw(slug, /[^a-z0-9-]/u) ?? 'has a hyphen at an end or two in a row'}`,
  );
}

/**
 * Makes a slug of any text: accents are dropped, everything else that is not a letter or digit
 * becomes one hyphen. @throws {ValidationError} when nothing is left.
 */
export function toChannelSlug(text: string): string {
  const plain = text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
  const slug = plain
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, SLUG_LENGTH_MAX)
    .replace(/^-+|-+$/g, '');
  if (!slug) throw new ValidationError(`no channel slug can be made of ${quote(text)}`);
  return slug;
}

/** Returns `name` when the server takes it as a channel's name. @throws {ValidationError} */
export function checkChannel(name: string): string {
  const wrong = flaw(name, /[^A-Za-z0-9_.:@=,;-]/u);
  if (wrong) throw new ValidationError(`the channel name ${quote(name)} ${wrong}`);
  return name;
}

/** What is wrong with `name`, with `foreign` matching the characters that it may not have. */
function flaw(name: unknown, foreign: RegExp): string | undefined {
  if (typeof name !== 'string') return 'is not a string';
  if (!name) return 'is empty';
  if (name.length > SLUG_LENGTH_MAX) return `has more than ${SLUG_LENGTH_MAX} characters`;
  const found = foreign.exec(name);
  return found ? `has ${quote(found[0])} at position ${found.index}` : undefined;
}

function quote(text: unknown): string {
  return JSON.stringify(text) ?? String(text);
}
