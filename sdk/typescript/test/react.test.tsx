/** @vitest-environment jsdom */
import { act, StrictMode, type ReactNode } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  PushFloProvider,
  useChannel,
  type UseChannelOptions,
  usePresence,
  usePushFlo,
  usePushFloContext,
} from '../src/react';
import { FakeSocket, settled } from './fake-socket';

let root: Root;
let page: HTMLElement;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('IS_REACT_ACT_ENVIRONMENT', true);
  FakeSocket.all = [];
  page = document.body.appendChild(document.createElement('div'));
  root = createRoot(page);
});
afterEach(async () => {
  await act(async () => root.unmount());
  // Nothing may be left of any of these tests.
  expect(vi.getTimerCount()).toBe(0);
  expect(FakeSocket.open).toEqual([]);
  vi.useRealTimers();
});

async function show(
  children: ReactNode,
  { key = 'pub_1', getToken }: { key?: string; getToken?: () => string } = {},
): Promise<void> {
  await act(async () => {
    root.render(
      <PushFloProvider publishKey={key} getToken={getToken} baseUrl="http://push.test" webSocket={FakeSocket}>
        {children}
      </PushFloProvider>,
    );
    await settled();
  });
}

async function greeted(): Promise<void> {
  await act(async () => void FakeSocket.last.greets());
}

function Channel({ name, options }: { name: string | null; options?: UseChannelOptions }): ReactNode {
  const { messages, lastMessage, isSubscribed, connectionState, clearMessages } = useChannel(name, options);
  const text = {
    messages: messages.map(({ data }) => data),
    last: lastMessage?.data ?? null,
    isSubscribed,
    connectionState,
  };
  return <button onClick={clearMessages}>{JSON.stringify(text)}</button>;
}

const shown = () => JSON.parse(page.textContent!);

describe('the provider', () => {
  it('leaves one connection in strict mode, and one subscription', async () => {
    await act(async () => {
      root.render(
        <StrictMode>
          <PushFloProvider publishKey="pub_1" baseUrl="http://push.test" webSocket={FakeSocket}>
            <Channel name="a" />
          </PushFloProvider>
        </StrictMode>,
      );
      await settled();
    });
    await greeted();
    expect(FakeSocket.open).toHaveLength(1);
    expect(FakeSocket.last.sent).toEqual([{ type: 'subscribe', channel: 'a' }]);
  });

  it('keeps the connection over renderings, and makes another for another key', async () => {
    await show(null);
    await show(null);
    expect(FakeSocket.all).toHaveLength(1);
    await show(null, { key: 'pub_2' });
    expect(FakeSocket.open.map(({ url }) => url)).toEqual(['ws://push.test/ws?token=pub_2']);
  });

  it('calls the latest getToken, and does not reconnect because it is another function', async () => {
    await show(null, { getToken: () => 'one' });
    await show(null, { getToken: () => 'two' });
    expect(FakeSocket.all).toHaveLength(1);
    await act(async () => {
      FakeSocket.last.dies();
      window.dispatchEvent(new Event('online'));
      await settled();
    });
    expect(FakeSocket.last.url).toContain('token=two');
  });

  it('renders on a server, without connecting', () => {
    const html = renderToString(
      <PushFloProvider publishKey="pub_1" baseUrl="http://push.test" webSocket={FakeSocket}>
        <Channel name="a" />
      </PushFloProvider>,
    );
    expect(html).toContain('disconnected');
    expect(FakeSocket.all).toEqual([]);
  });

  it('is needed', () => {
    expect(() => renderToString(<Channel name="a" />)).toThrow('within a <PushFloProvider>');
  });

  it('connects when it is told to, where autoConnect is off', async () => {
    function Connect(): ReactNode {
      const { connect, isConnecting, connectionState } = usePushFlo();
      return (
        <button onClick={() => void connect()}>{JSON.stringify([isConnecting, connectionState])}</button>
      );
    }
    await act(async () => {
      root.render(
        <PushFloProvider
          autoConnect={false}
          publishKey="pub_1"
          baseUrl="http://push.test"
          webSocket={FakeSocket}
        >
          <Connect />
        </PushFloProvider>,
      );
      await settled();
    });
    expect([shown(), FakeSocket.all]).toEqual([[false, 'disconnected'], []]);
    await act(async () => page.querySelector('button')!.click());
    expect(shown()).toEqual([true, 'connecting']);
  });

  it('neither connects nor throws while a server renders, also without a key', () => {
    const html = renderToString(
      <PushFloProvider {...({ autoConnect: true, publishKey: undefined } as object)}>
        <Channel name="a" />
      </PushFloProvider>,
    );
    expect(html).toContain('disconnected');
    expect(FakeSocket.all).toEqual([]);
  });

  it('says in the console what is missing, and shows an error', async () => {
    const console = vi.spyOn(globalThis.console, 'error').mockReturnValue();
    function Everything(): ReactNode {
      const { client, connectionState, subscribe, unsubscribe } = usePushFloContext();
      unsubscribe('a');
      return JSON.stringify([client, connectionState, subscribe('a')]);
    }
    await act(async () =>
      root.render(
        <PushFloProvider publishKey={undefined}>
          <Everything />
          <Channel name="a" />
        </PushFloProvider>,
      ),
    );
    expect(page.textContent).toContain('[null,"error",null]');
    expect(console).toHaveBeenCalledExactlyOnceWith(
      expect.stringContaining('NEXT_PUBLIC_PUSHFLO_PUBLISH_KEY'),
    );
  });
});

describe('useChannel', () => {
  async function live(options?: UseChannelOptions): Promise<void> {
    await show(<Channel name="a" options={options} />);
    await greeted();
    await act(async () => FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 }));
  }

  it('shows messages and the state of the connection', async () => {
    await live();
    expect(shown()).toEqual({ messages: [], last: null, isSubscribed: true, connectionState: 'connected' });
    await act(async () => {
      FakeSocket.last.publishes('a', 1, 'x');
      FakeSocket.last.publishes('a', 2, 'y');
    });
    expect(shown()).toMatchObject({ messages: ['x', 'y'], last: 'y' });
    await act(async () => FakeSocket.last.dies());
    expect(shown()).toMatchObject({
      messages: ['x', 'y'],
      isSubscribed: false,
      connectionState: 'connecting',
    });
  });

  it('keeps the latest maxMessages, clears them, and tells each', async () => {
    const onMessage = vi.fn();
    await live({ maxMessages: 2, onMessage });
    await act(async () => [1, 2, 3].forEach((n) => FakeSocket.last.publishes('a', n, n)));
    expect(shown().messages).toEqual([2, 3]);
    expect(onMessage).toHaveBeenCalledTimes(3);
    await act(async () => page.querySelector('button')!.click());
    expect(shown().messages).toEqual([]);
  });

  it('begins with the history it is asked for', async () => {
    await live({ history: 500, maxMessages: 10 });
    expect(FakeSocket.last.sent).toEqual([{ type: 'subscribe', channel: 'a', replay: { last: 10 } }]);
  });

  it('follows the channel it is given, also none', async () => {
    await live();
    await act(async () => FakeSocket.last.publishes('a', 1, 'x'));
    await show(<Channel name="b" />);
    expect(shown().messages).toEqual([]);
    for (const name of [null, '', undefined, false]) await show(<Channel name={name as null} />);
    expect(FakeSocket.last.sent.map((frame) => Object.values(frame as object))).toEqual([
      ['subscribe', 'a'],
      ['unsubscribe', 'a'],
      ['subscribe', 'b'],
    ]);
    expect(shown().isSubscribed).toBe(false);
  });
});

describe('a channel', () => {
  it('whose name cannot be is told to onError, and the page stays', async () => {
    const onError = vi.fn();
    await show(<Channel name="a b" options={{ onError }} />);
    await greeted();
    expect(onError).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ name: 'ValidationError' }));
    const console = vi.spyOn(globalThis.console, 'error').mockReturnValue();
    await show(<Channel name="käse" />);
    expect(console).toHaveBeenCalledExactlyOnceWith(expect.stringContaining('käse'));
    expect(FakeSocket.last.sent).toEqual([]);
  });

  it('never shows the messages of the one before', async () => {
    const seen: unknown[] = [];
    function Recorder({ name }: { name: string }): ReactNode {
      seen.push([name, useChannel(name).messages.map(({ channel }) => channel)]);
      return null;
    }
    await show(<Recorder name="a" />);
    await greeted();
    await act(async () => {
      FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
      FakeSocket.last.publishes('a', 1, 'x');
    });
    await show(<Recorder name="b" />);
    expect(seen).toContainEqual(['a', ['a']]);
    expect(seen).toContainEqual(['b', []]);
    expect(seen).not.toContainEqual(['b', ['a']]);
  });
});

it('usePresence shows who is there', async () => {
  function Members(): ReactNode {
    const { members, count, isKnown } = usePresence('a');
    return JSON.stringify([members.map(({ clientId }) => clientId), count, isKnown]);
  }
  await show(<Members />);
  await greeted();
  expect(FakeSocket.last.sent).toEqual([{ type: 'subscribe', channel: 'a', presence: true }]);
  expect(shown()).toEqual([[], 0, false]);
  await act(async () => {
    FakeSocket.last.says({ type: 'subscribed', channel: 'a', epoch: 'e', offset: 0 });
    FakeSocket.last.says({ type: 'presence', channel: 'a', members: [{ clientId: 'x' }], count: 1 });
    FakeSocket.last.says({ type: 'presence', channel: 'a', joined: [{ clientId: 'y' }], count: 2 });
  });
  expect(shown()).toEqual([['x', 'y'], 2, true]);
});

it('usePushFlo gives the connection', async () => {
  function Connection(): ReactNode {
    const { isConnected, clientId, disconnect } = usePushFlo();
    return <button onClick={disconnect}>{JSON.stringify([isConnected, clientId])}</button>;
  }
  await show(<Connection />);
  await greeted();
  expect(shown()).toEqual([true, 'me']);
  await act(async () => page.querySelector('button')!.click());
  expect(shown()).toEqual([false, null]);
});
