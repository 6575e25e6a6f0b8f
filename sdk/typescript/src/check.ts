/** What is wrong with what a caller gives, before it is sent. */
import { ValidationError } from './errors';

/** What a header may carry without a doubt. */
export const VISIBLE_ASCII = /^[\x21-\x7e]+$/;

/** @throws {ValidationError} for what is there and no string. */
export function checkText(field: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'string') {
    throw new ValidationError(`${field} must be a string`, field);
  }
}
