/** When a page or worker should look after its connection: the network or the user is back. */

/** Listens until the function that is returned is called. Where there are no such events, nothing happens. */
export function watchWake(wake: () => void, offline: () => void): () => void {
  const seen = () => {
    if (document.visibilityState === 'visible') wake();
  };
  const hasPage = typeof document === 'object' && typeof document.addEventListener === 'function';
  const hasNetwork = typeof addEventListener === 'function' && typeof removeEventListener === 'function';
  if (hasPage) document.addEventListener('visibilitychange', seen);
  if (hasNetwork) {
    addEventListener('online', wake);
    addEventListener('offline', offline);
  }
  return () => {
    if (hasPage) document.removeEventListener('visibilitychange', seen);
    if (hasNetwork) {
      removeEventListener('online', wake);
      removeEventListener('offline', offline);
    }
  };
}
