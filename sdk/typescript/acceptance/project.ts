/** An empty project into which the package is installed as npm packs it. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

export const PACKAGE = join(import.meta.dirname, '..');

export class Project {
  readonly folder = mkdtempSync(join(tmpdir(), 'pushflo-project-'));
  /** What npm would upload. */
  readonly tarball: string;

  /** `beside`: more packages that the project has. */
  constructor(...beside: string[]) {
    const [packed] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', this.folder], PACKAGE));
    this.tarball = join(this.folder, packed.filename);
    this.write('package.json', '{ "name": "project", "private": true }');
    run('npm', ['install', '--offline', '--no-audit', '--no-fund', this.tarball], this.folder);
    // What a project has beside it.
    for (const name of [
      'react',
      '@types/react',
      '@types/node',
      'csstype',
      'undici-types',
      'ws',
      '@types/ws',
      ...beside,
    ])
      this.link(name);
  }

  write(file: string, text: string): void {
    const path = join(this.folder, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }

  /** Runs Node in the project. */
  node(...args: string[]): string {
    return run(process.execPath, args, this.folder);
  }

  /** Runs a program of the SDK's development in the project. */
  tool(name: string, ...args: string[]): string {
    return run(join(PACKAGE, 'node_modules/.bin', name), args, this.folder);
  }

  /** Checks types as strictly as TypeScript does, with the options that all kinds of project share. */
  checkTypes(...args: string[]): void {
    const shared = '--noEmit --strict --jsx react-jsx --target es2022 --lib es2022,dom';
    this.tool('tsc', ...shared.split(' '), ...args);
  }

  /** The same for modules as bundlers take them. */
  checkBundledTypes(...args: string[]): void {
    this.checkTypes('--module', 'esnext', '--moduleResolution', 'bundler', ...args);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Has a package in the project, in place of another version of it. */
  link(name: string, from = join(PACKAGE, 'node_modules')): void {
    const path = join(this.folder, 'node_modules', name);
    mkdirSync(dirname(path), { recursive: true });
    rmSync(path, { force: true });
    symlinkSync(join(from, name), path);
  }
}

/** The output of a program; where it fails, an error with all it wrote. */
function run(program: string, args: string[], cwd: string): string {
  try {
    return execFileSync(program, args, { cwd, encoding: 'utf8', stdio: 'pipe' });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${program} ${args.join(' ')}\n${stdout}${stderr}`);
  }
}
