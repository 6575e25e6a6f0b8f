import { describe, expect, it } from 'vitest';
import {
  AuthenticationError,
  ConnectionError,
  errorOf,
  ForbiddenError,
  PushFloError,
  ValidationError,
} from '../src/errors';
import { httpErrorOf, NetworkError } from '../src/http-errors';

describe('errors', () => {
  it('keep their message in JSON and in text', () => {
    const cause = new Error('why');
    const error = new NetworkError('no', 'NOT_FOUND', { status: 404, retryable: false, cause });
    expect(JSON.parse(JSON.stringify(error))).toMatchObject({
      name: 'NetworkError',
      message: 'no',
      code: 'NOT_FOUND',
      retryable: false,
      statusCode: 404,
      cause: 'why',
      stack: expect.stringContaining('NetworkError'),
    });
    expect(String(error)).toBe('NetworkError [NOT_FOUND]: no');
    expect(JSON.stringify(new ValidationError('x', 'slug'))).toContain('"field":"slug"');
  });

  it('are made with a message, a code, and whether the same call may succeed later', () => {
    expect(new PushFloError('x', 'A')).toMatchObject({ message: 'x', code: 'A', retryable: false });
    expect(new PushFloError('x', 'A', { retryable: true }).retryable).toBe(true);
    expect(new ConnectionError('x')).toMatchObject({ code: 'CONNECTION_FAILED', retryable: true });
    expect(new NetworkError('x')).toMatchObject({ code: 'NETWORK_ERROR', retryable: true });
    expect(new AuthenticationError('x')).toMatchObject({ code: 'UNAUTHORIZED', retryable: false });
    expect(new ValidationError('x', 'f')).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: 'f',
      retryable: false,
    });
    expect(new PushFloError('x', 'A', { cause: 'text' }).cause).toEqual(new Error('text'));
  });

  it('have their constructors', () => {
    expect(ConnectionError.timeout(5)).toMatchObject({ code: 'CONNECTION_TIMEOUT', retryable: true });
    expect(ConnectionError.closed('bye').message).toBe('Connection closed: bye');
    expect(ConnectionError.failed('no', new Error('x')).cause).toEqual(new Error('x'));
    expect(AuthenticationError.invalidKey('publish')).toMatchObject({
      code: 'INVALID_API_KEY',
      message: 'Invalid publish API key',
    });
    expect(AuthenticationError.unauthorized().code).toBe('UNAUTHORIZED');
    expect(AuthenticationError.forbidden('x').code).toBe('FORBIDDEN');
    expect(NetworkError.timeout(5).code).toBe('REQUEST_TIMEOUT');
    expect(NetworkError.fromFetch(new TypeError('x')).code).toBe('NETWORK_ERROR');
    expect(ValidationError.required('name')).toMatchObject({ message: 'name is required', field: 'name' });
    expect(ValidationError.invalidChannelSlug('A b').message).toContain("'A b'");
  });

  it.each([
    [400, 'VALIDATION_ERROR', false],
    [401, 'UNAUTHORIZED', false],
    [404, 'NOT_FOUND', false],
    [422, 'VALIDATION_ERROR', false],
    [429, 'RATE_LIMITED', true],
    [503, 'SERVER_ERROR', true],
  ])('of a status %i', (status, code, retryable) => {
    expect(NetworkError.fromStatus(status)).toMatchObject({
      name: expect.any(String),
      statusCode: status,
      code,
      retryable,
    });
    expect(NetworkError.fromStatus(status)).toBeInstanceOf(NetworkError);
  });

  it('are of the class that belongs to the code, and to where it came from', () => {
    expect(errorOf('FORBIDDEN', 'x')).toBeInstanceOf(ForbiddenError);
    expect(errorOf('FORBIDDEN', 'x')).toBeInstanceOf(AuthenticationError);
    expect(errorOf('VALIDATION_ERROR', 'x')).toBeInstanceOf(ValidationError);
    expect(httpErrorOf('VALIDATION_ERROR', 'x', { status: 400 })).toBeInstanceOf(NetworkError);
    expect(httpErrorOf('FORBIDDEN', 'x', { status: 403 })).toBeInstanceOf(ForbiddenError);
    expect(errorOf('NOT_CONNECTED', 'x')).toBeInstanceOf(ConnectionError);
    expect(httpErrorOf('NOT_FOUND', 'x', { status: 404 })).toBeInstanceOf(NetworkError);
    expect(errorOf('OF_A_LATER_SERVER', 'x')).toMatchObject({
      code: 'OF_A_LATER_SERVER',
      name: 'PushFloError',
    });
  });
});
