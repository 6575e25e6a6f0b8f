/** Lines about what happens, for those who look for a fault. */

/** The console, or a function that gets each line. */
export type LogTarget = boolean | ((line: string) => void);

/**
 * Writes a line: `text`, and `detail` as JSON without tokens. Whatever goes wrong with that is nobody
 * else's trouble.
 */
export function log(target: LogTarget | undefined, text: string, detail?: unknown): void {
  if (!target) return;
  try {
    const shown = (key: string, value: unknown) => (key === 'token' ? '…' : value);
    const line = detail ? `${text} ${JSON.stringify(detail, shown)}` : text;
    if (typeof target === 'function') target(line);
    else console.debug(`[pushflo] ${line}`);
  } catch {
    // It was only a line.
  }
}
