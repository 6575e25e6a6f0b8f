/**
 * A web site for the pages under test: their files, the built SDK under `/sdk/`, connection tokens
 * under `/token`, and `/hold`, whose answer waits until the test lets go.
 */
import { readFile } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { build } from 'esbuild';
import { signToken } from '@pushflodev/sdk/server';
import { SECRET_KEY } from './pushflo';

const HERE = import.meta.dirname;
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.tsx': 'text/javascript',
};

export class Site {
  url = '';
  /** How many tokens were asked for. */
  tokens = 0;
  /** Whether `/token` answers 503. */
  isTokenRefused = false;
  /** Programs that a test brings; `/page.html?NAME` runs one. */
  readonly programs = new Map<string, string>();
  private readonly held: ServerResponse[] = [];
  private readonly server: Server;

  private constructor() {
    this.server = createServer((request, response) => {
      const url = new URL(request.url!, 'http://site');
      this.answer(url, response).catch((error) => response.writeHead(404).end(String(error)));
    });
  }

  static async start(): Promise<Site> {
    const site = new Site();
    await new Promise<void>((listening) => site.server.listen(0, '127.0.0.1', listening));
    site.url = `http://127.0.0.1:${(site.server.address() as AddressInfo).port}`;
    return site;
  }

  /** Answers those that `/hold` holds. */
  release(): void {
    for (const response of this.held.splice(0)) response.end('go on');
  }

  stop(): void {
    this.release();
    this.server.close();
    this.server.closeAllConnections();
  }

  private async answer(url: URL, response: ServerResponse): Promise<void> {
    if (url.pathname === '/hold') return void this.held.push(response);
    if (url.pathname === '/token') {
      this.tokens++;
      if (this.isTokenRefused) return void response.writeHead(503).end();
      const { ttl, ...grant } = Object.fromEntries(url.searchParams);
      return void response.end(await signToken(SECRET_KEY, { clientId: 'tab', ...grant, ttl: Number(ttl) }));
    }
    if (url.pathname === '/favicon.ico') return void response.writeHead(204).end();
    const program = this.programs.get(url.pathname.slice(1));
    if (program !== undefined) return void response.setHeader('Content-Type', 'text/javascript').end(program);
    const file = normalize(url.pathname)
      .replace(/^\/sdk\//, '/../dist/')
      .slice(1);
    const path = join(HERE, file.startsWith('../dist/') ? file : `pages/${file}`);
    response.setHeader('Content-Type', TYPES[extname(path)] ?? 'text/plain');
    response.end(extname(path) === '.tsx' ? await bundle(path) : await readFile(path));
  }
}

/** A page's program with React as developers have it: its strict mode mounts everything twice. */
async function bundle(path: string): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [path],
    bundle: true,
    write: false,
    format: 'esm',
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"development"' },
    conditions: ['import'],
    // The pages use the package as it is built, not its source.
    tsconfigRaw: {},
  });
  return outputFiles[0]!.text;
}
