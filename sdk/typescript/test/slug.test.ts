import { expect, it } from 'vitest';
import {
  isValidChannelSlug,
  MAX_SLUG_LENGTH,
  MIN_SLUG_LENGTH,
  toChannelSlug,
  validateChannelSlug,
  ValidationError,
} from '../src/index';
import { checkChannel } from '../src/slug';

it.each(['a', 'user-123', '0', 'a-b-c', 'x'.repeat(64)])('takes %s', (slug) => {
  expect(isValidChannelSlug(slug)).toBe(true);
  expect(validateChannelSlug(slug)).toEqual({ valid: true });
  expect(checkChannel(slug)).toBe(slug);
});

it.each([
  ['x'.repeat(65), 'cannot exceed 64 characters (got 65)', 'x'.repeat(64)],
  ['-a', 'cannot start with a hyphen', 'a'],
  ['a-', 'cannot end with a hyphen', 'a'],
  ['a--b', 'cannot contain consecutive hyphens', 'a-b'],
  ['Orders', 'must be lowercase', 'orders'],
  ['user:1_2:3', 'contains invalid characters: :, _.', 'user-1-2-3'],
])('does not take %j: it %s', (slug, why, suggestion) => {
  expect(isValidChannelSlug(slug)).toBe(false);
  const result = validateChannelSlug(slug);
  expect(result).toMatchObject({ valid: false, suggestion });
  expect(result.error).toContain(`Channel slug ${why}`);
});

it.each(['', null, undefined, 7, {}])('says that %j is none, and does not throw', (slug) => {
  expect(isValidChannelSlug(slug as never)).toBe(false);
  expect(validateChannelSlug(slug as never)).toEqual({ valid: false, error: 'Channel slug is required' });
});

it.each([
  ['User 123', 'user-123'],
  ['  Hello, World! ', 'hello-world'],
  ['a--B__c', 'a-b-c'],
  ['___test___', 'test'],
  ['…', ''],
  ['', ''],
  [`${'x'.repeat(70)} y`, 'x'.repeat(64)],
])('makes of %j', (text, slug) => {
  expect(toChannelSlug(text)).toBe(slug);
});

it('tells the lengths', () => {
  expect([MIN_SLUG_LENGTH, MAX_SLUG_LENGTH]).toEqual([1, 64]);
});

it('lets through what the server takes as a name, and nothing else', () => {
  for (const name of ['orders:user-123', 'A_Z.9@x=1,2;3', 'x'.repeat(128)])
    expect(checkChannel(name)).toBe(name);
  for (const name of ['', 'a b', 'käse', 'a"b', 'x'.repeat(129), 7, null, undefined])
    expect(() => checkChannel(name as never)).toThrow(ValidationError);
  expect(() => checkChannel('a b')).toThrow('not "a b"');
});
