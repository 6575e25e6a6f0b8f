/**
 * For pages without a build step: `<script src="pushflo.js">` makes the global `PushFlo`, with what a
 * page needs that listens and publishes.
 */
import { PushFloClient } from './client';
import {
  AuthenticationError,
  ConnectionError,
  ForbiddenError,
  PushFloError,
  ValidationError,
} from './errors';

Object.assign(globalThis, {
  PushFlo: {
    PushFloClient,
    PushFloError,
    AuthenticationError,
    ConnectionError,
    ForbiddenError,
    ValidationError,
  },
});
