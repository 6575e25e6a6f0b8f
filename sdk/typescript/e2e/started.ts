/** Programs that go on: development servers, examples. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export interface Started {
  found: string[];
  stop: () => Promise<void>;
}

/** Runs a program until its output matches; what matched is returned. */
export async function started(
  command: string,
  args: string[],
  until: RegExp,
  { env, cwd }: { env: Record<string, string>; cwd?: string },
): Promise<Started> {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ending = once(child, 'exit');
    process.kill(-child.pid!, 'SIGTERM');
    await ending;
  };
  let text = '';
  for await (const line of createInterface(child.stdout)) {
    text += `${line}\n`;
    const found = until.exec(text);
    if (!found) continue;
    // It goes on writing, to nobody.
    child.stdout.resume();
    return { found, stop };
  }
  throw new Error(`${command} ended: ${text}`);
}
