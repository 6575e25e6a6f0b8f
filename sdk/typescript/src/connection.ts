/**
 * The shell around a {@link Session}: it owns the socket, the timers and the requests for tokens,
 * carries out what the session wants and tells it what happened. What to do is decided there.
 */
import { resolveBaseUrl, socketUrl } from './address';
import { type Call, call, type Effects, type Inputs, type Timer } from './core/effects';
import { type Session, sessionOf } from './core/session';
import { CloseCode, type ServerFrame } from './core/wire';
import { errorOf } from './errors';
import { log } from './log';
import {
  type ClientOptions,
  sessionSettings,
  tokenSource,
  type WebSocketLike,
  webSocketClass,
} from './options';
import { watchWake } from './wake';

/** What is carried out here; all other effects are for those who listen. */
type Own = 'fetchToken' | 'open' | 'close' | 'send' | 'start' | 'stop';

export interface Connection extends Pick<Session, 'state' | 'isLive'> {
  /** Tells the session, and carries out what it wants: after what is being carried out already. */
  apply(...input: Call<Inputs>): void;
}

/**
 * @throws {AuthenticationError} where there is no key, or none that can be one.
 * @throws {ValidationError} for an option that cannot be.
 */
export function connectionOf(options: ClientOptions, listeners: Omit<Effects, Own>): Connection {
  const server = resolveBaseUrl(options.baseUrl);
  const getToken = tokenSource(options);
  const timers = new Map<Timer, ReturnType<typeof setTimeout>>();
  /** Effects that are to be carried out, in order, also those that come up meanwhile. */
  const due: Call<Effects>[] = [];
  let isCarryingOut = false;
  let socket: WebSocketLike | undefined;
  /** Counts token requests; the answer to an earlier one is dropped. */
  let tokenRequest = 0;
  let unwatchWake: (() => void) | undefined;

  const session = sessionOf(sessionSettings(options, server), {
    now: Date.now,
    random: Math.random,
    out: (...effect) => due.push(effect),
  });

  function apply(...input: Call<Inputs>): void {
    log(options.debug, 'in', input);
    call<Inputs>(session, input);
    if (isCarryingOut) return;
    isCarryingOut = true;
    for (let effect = due.shift(); effect; effect = due.shift()) {
      log(options.debug, 'out', effect);
      call(effects, effect);
    }
    isCarryingOut = false;
  }

  const effects: Effects = {
    ...listeners,

    state(state, error) {
      if (state === 'connecting' || state === 'connected') {
        unwatchWake ??= watchWake(
          () => apply('wake'),
          () => apply('offline'),
        );
      } else {
        unwatchWake?.();
        unwatchWake = undefined;
      }
      listeners.state(state, error);
    },

    fetchToken() {
      const request = ++tokenRequest;
      const answer = (...input: Call<Inputs>) => {
        if (request === tokenRequest) apply(...input);
      };
      getToken().then(
        (token) => answer('token', { token }),
        (cause) => {
          const text = `getToken failed: ${reasonOf(cause)}`;
          answer('tokenFailed', errorOf('TOKEN_ERROR', text, { cause }));
        },
      );
    },

    open({ token }) {
      try {
        socket = new (webSocketClass(options))(socketUrl(server, token));
      } catch (cause) {
        const reason = reasonOf(cause).replaceAll(token, '…').replaceAll(encodeURIComponent(token), '…');
        const text = `no connection can be made to ${server}: ${reason}`;
        return apply('impossible', errorOf('VALIDATION_ERROR', text, { cause }));
      }
      socket.onmessage = ({ data }) => {
        const frame = parse(data);
        if (frame) apply('frame', frame);
      };
      socket.onclose = ({ code, reason }) => {
        socket = undefined;
        apply('closed', code ?? CloseCode.lost, String(reason ?? ''));
      };
      // A close follows. Without a listener, Node's `ws` would throw.
      socket.onerror = () => {};
    },

    close() {
      tokenRequest++;
      if (!socket) return;
      const closing = socket;
      socket = undefined;
      closing.onmessage = closing.onclose = null;
      closing.close(CloseCode.normal);
    },

    send(frame) {
      // A socket that is closing throws in some runtimes; its close comes as an event of its own.
      try {
        socket?.send(JSON.stringify(frame));
      } catch (error) {
        log(options.debug, 'send failed', error);
      }
    },

    start(timer, ms) {
      effects.stop(timer);
      const fire = () => {
        timers.delete(timer);
        apply('timer', timer);
      };
      timers.set(timer, setTimeout(fire, Math.min(ms, TIMER_MAX_MS)));
    },

    stop(timer) {
      clearTimeout(timers.get(timer));
      timers.delete(timer);
    },
  };

  return { apply, state: session.state, isLive: session.isLive };
}

/** The frame in a text message; what is none is ignored, as a later server may say more. */
function parse(data: unknown): ServerFrame | undefined {
  try {
    return typeof data === 'string' ? JSON.parse(data) : undefined;
  } catch {
    return undefined;
  }
}

/** What an error says, whatever was thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The longest wait a timer can have. */
const TIMER_MAX_MS = 2 ** 31 - 1;
