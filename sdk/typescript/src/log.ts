/** Lines about what happens, for those who look for a fault. */

/** The console, or a function that gets each line. */
export type LogTarget = boolean | ((line: string) => void);

/** Writes a line. Whatever goes wrong with that is nobody else's trouble. */
export function log(target: LogTarget | undefined, text: string): void {
  if (!target) return;
  try {
    if (typeof target === 'function') target(text);
    else console.debug(`[pushflo] ${text}`);
  } catch {
    // It was only a line.
  }
}

/** `value` as text, without keys and tokens, also where JSON cannot say it. */
export function shown(value: unknown): string {
  try {
    return JSON.stringify(value, (key, inner) => {
      if (key === 'token') return '…';
      return typeof inner === 'bigint' ? `${inner}n` : inner;
    });
  } catch {
    return String(value);
  }
}
