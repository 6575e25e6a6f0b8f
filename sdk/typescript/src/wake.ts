/** When a page or worker should look after its connection: the network or the user is back. */

/** Listens until the function that is returned is called. Where there are no such events, nothing happens. */
export function watchWake(wake: () => void, offline: () => void): () => void {
  const page = typeof document === 'object' ? document : undefined;
  const watched: [Partial<EventTarget> | undefined, string, () => void][] = [
    [page, 'visibilitychange', () => page!.visibilityState === 'visible' && wake()],
    [globalThis, 'online', wake],
    [globalThis, 'offline', offline],
  ];
  for (const [target, ...event] of watched) target?.addEventListener?.(...event);
  return () => {
    for (const [target, ...event] of watched) target?.removeEventListener?.(...event);
  };
}
