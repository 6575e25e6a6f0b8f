/**
 * Channel slugs: the names of channels.
 *
 * Two alphabets exist. A slug is what the helpers here make and check: `a-z`, `0-9` and single inner
 * hyphens, at most 64 characters, safe in every address. The server also takes names such as
 * `orders:user-123`; what it takes is checked before it is sent, because a name it refuses cannot be
 * told from another.
 */
import { ValidationError } from './errors';

/** The least and the most characters of a slug. */
export const MIN_SLUG_LENGTH = 1;
export const MAX_SLUG_LENGTH = 64;

/** What is wrong with a slug, and one that is near it. */
export interface SlugValidationResult {
  valid: boolean;
  error?: string;
  suggestion?: string;
}

/** Whether `slug` is made of `a-z`, `0-9` and single inner hyphens, 1 to 64 characters. */
export function isValidChannelSlug(slug: string): boolean {
  return validateChannelSlug(slug).valid;
}

/** Says what is wrong with `slug`, if anything is. Nothing is thrown, whatever it is. */
export function validateChannelSlug(slug: string): SlugValidationResult {
  if (!slug || typeof slug !== 'string') return { valid: false, error: 'Channel slug is required' };
  const wrong = slugFlaw(slug);
  if (!wrong) return { valid: true };
  return { valid: false, error: `Channel slug ${wrong}`, suggestion: toChannelSlug(slug) };
}

function slugFlaw(slug: string): string | undefined {
  if (slug.length > MAX_SLUG_LENGTH) {
    return `cannot exceed ${MAX_SLUG_LENGTH} characters (got ${slug.length})`;
  }
  if (slug !== slug.toLowerCase()) return 'must be lowercase';
  if (slug.startsWith('-')) return 'cannot start with a hyphen';
  if (slug.endsWith('-')) return 'cannot end with a hyphen';
  if (slug.includes('--')) return 'cannot contain consecutive hyphens';
  const foreign = new Set(slug.match(/[^a-z0-9-]/g));
  if (!foreign.size) return undefined;
  const rule = 'Only lowercase letters, numbers, and hyphens are allowed.';
  return `contains invalid characters: ${[...foreign].join(', ')}. ${rule}`;
}

/**
 * Makes a slug of any text: what is no letter of `a-z` and no digit becomes one hyphen. Empty where
 * nothing is left; see {@link isValidChannelSlug}.
 */
export function toChannelSlug(text: string): string {
  const words = text.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  return words.replace(/^-+|-+$/g, '').slice(0, MAX_SLUG_LENGTH);
}

/** Returns `name` when the server takes it as a channel's name. @throws {ValidationError} */
export function checkChannel(name: string): string {
  if (typeof name === 'string' && NAME.test(name)) return name;
  const given = typeof name === 'string' ? JSON.stringify(name) : String(name);
  const rule = '1 to 128 letters, digits and any of _ . : @ = , ; -';
  throw new ValidationError(`a channel name is ${rule}, not ${given}`, 'channel');
}

const NAME = /^[\w.:@=,;-]{1,128}$/;
