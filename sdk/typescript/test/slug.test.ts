import { expect, it } from 'vitest';
import { isValidChannelSlug, toChannelSlug, validateChannelSlug, ValidationError } from '../src/index';
import { checkChannel } from '../src/slug';

it.each(['a', 'user-123', '0', 'a-b-c', 'x'.repeat(128)])('takes %s', (slug) => {
  expect(isValidChannelSlug(slug)).toBe(true);
  expect(validateChannelSlug(slug)).toBe(slug);
  expect(checkChannel(slug)).toBe(slug);
});

it.each([
  ['', 'is empty'],
  ['x'.repeat(129), 'more than 128'],
  ['-a', 'hyphen at an end'],
  ['a-', 'hyphen at an end'],
  ['a--b', 'two in a row'],
  ['Orders', '"O" at position 0'],
  ['a😀', '"😀" at position 1'],
  ['a/b', '"/" at position 1'],
])('does not take %j: it %s', (slug, why) => {
  expect(isValidChannelSlug(slug)).toBe(false);
  expect(() => validateChannelSlug(slug)).toThrow(why);
  expect(() => validateChannelSlug(slug)).toThrow(ValidationError);
});

it.each([
  ['User 123', 'user-123'],
  ['  Crème brûlée! ', 'creme-brulee'],
  ['a--B__c', 'a-b-c'],
  [`${'x'.repeat(127)} y`, 'x'.repeat(127)],
])('makes of %j', (text, slug) => {
  expect(toChannelSlug(text)).toBe(slug);
  expect(isValidChannelSlug(slug)).toBe(true);
});

it('makes none of nothing', () => {
  expect(() => toChannelSlug('…')).toThrow('no channel slug');
});

it('lets through what the server takes, and nothing else', () => {
  for (const name of ['orders:user-123', 'A_Z.9@x=1,2;3']) expect(checkChannel(name)).toBe(name);
  for (const name of ['', 'a b', 'käse', 'a"b', 'x'.repeat(129)])
    expect(() => checkChannel(name)).toThrow(ValidationError);
});
