/** The real server: a process of its own, on a port of its own, with known keys. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { PushFloServer } from '@pushflodev/sdk/server';

export const PUBLISH_KEY = 'pub_0123456789abcdef0123';
export const SECRET_KEY = 'sec_0123456789abcdef0123';
export const MANAGE_KEY = 'mgmt_0123456789abcdef012';

const ROOT = join(import.meta.dirname, '../../..');

/** The server's program: `PUSHFLO_BIN`, or what was built last. */
export function program(): string {
  const places = [
    process.env.PUSHFLO_BIN,
    join(ROOT, 'target/debug/pushflo'),
    join(ROOT, 'target/release/pushflo'),
  ];
  const found = places.find((place) => place && existsSync(place));
  if (!found) throw new Error('there is no pushflo to test: cargo build, or set PUSHFLO_BIN');
  return found;
}

export class PushFlo {
  url = '';
  /** As a backend has it. */
  readonly backend: PushFloServer;
  readonly admin: PushFloServer;
  readonly manageKey = MANAGE_KEY;
  private readonly folder = mkdtempSync(join(tmpdir(), 'pushflo-e2e-'));
  private process?: ChildProcess;
  /** What it wrote to standard error. */
  private complaints = '';
  /**
   * A loopback address of its own. A client that tries to reach a server which is down, from the same
   * address, can be given the server's very port to come from, and is then connected to itself.
   */
  private address = `127.${byte()}.${byte()}.${byte()}:0`;

  private constructor(config: string) {
    writeFileSync(this.configFile, config);
    // Found at each call: the port is known once the server listens.
    const settings = {
      baseUrl: 'http://pushflo',
      fetch: ((url: string, init: RequestInit) =>
        fetch(url.replace('http://pushflo', this.url), init)) as typeof fetch,
    };
    this.backend = new PushFloServer({ secretKey: SECRET_KEY, retryAttempts: 10, ...settings });
    this.admin = new PushFloServer({ secretKey: MANAGE_KEY, ...settings });
  }

  /** Starts a server; `config` is TOML. */
  static async start(config = ''): Promise<PushFlo> {
    const server = new PushFlo(config);
    await server.start();
    return server;
  }

  /** Starts, or starts again: with the same data, at the same address. */
  async start(): Promise<void> {
    // The kernel closes the listeners of a killed process a little after the process is gone.
    for (let attempt = 0; attempt < 100; attempt++) if (await this.tryStart()) return;
    throw new Error(`the server does not start: ${this.complaints}`);
  }

  /** Whether it listens; otherwise it has ended. */
  private async tryStart(): Promise<boolean> {
    const args = [
      '--config',
      this.configFile,
      '--listen',
      this.address,
      '--data-dir',
      join(this.folder, 'data'),
    ];
    const keys = {
      PUSHFLO_PUBLISH_KEY: PUBLISH_KEY,
      PUSHFLO_SECRET_KEY: SECRET_KEY,
      PUSHFLO_MGMT_KEY: MANAGE_KEY,
    };
    const child = spawn(program(), args, {
      env: { ...process.env, ...keys },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process = child;
    this.complaints = '';
    child.stderr.on('data', (text) => (this.complaints += text));
    for await (const line of createInterface(child.stdout)) {
      const listening = /listens on http:\/\/([^ ]*:\d+)/.exec(line);
      if (!listening) continue;
      this.address = listening[1]!;
      this.url = `http://${this.address}`;
      return true;
    }
    return false;
  }

  /** Ends it without a word, as a power cut does. */
  async kill(): Promise<void> {
    await this.end('SIGKILL');
  }

  /** Ends it as a deployment does. */
  async drain(): Promise<void> {
    await this.end('SIGTERM');
  }

  async stop(): Promise<void> {
    if (this.process?.exitCode === null) await this.end('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The sum of a metric over all shards. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const series = text.split('\n').filter((line) => line.startsWith(`${name}{`));
    if (!series.length) throw new Error(`there is no metric ${name}`);
    return series.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  private get configFile(): string {
    return join(this.folder, 'pushflo.toml');
  }

  private async end(signal: NodeJS.Signals): Promise<void> {
    const ending = once(this.process!, 'exit');
    this.process!.kill(signal);
    await ending;
  }
}

/** 1 to 254. */
function byte(): number {
  return 1 + Math.floor(Math.random() * 254);
}
