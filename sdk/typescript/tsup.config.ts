import { defineConfig, type Options } from 'tsup';

const shared: Options = {
  format: ['esm', 'cjs'],
  target: 'es2022',
  dts: true,
  splitting: true,
  treeshake: true,
};

export default defineConfig([
  {
    ...shared,
    entry: { index: 'src/index.ts', server: 'src/server/index.ts' },
    external: ['#webcrypto'],
  },
  {
    ...shared,
    entry: { webcrypto: 'src/server/webcrypto.ts', 'webcrypto-node': 'src/server/webcrypto-node.ts' },
    dts: false,
  },
  {
    ...shared,
    entry: { react: 'src/react/index.ts' },
    // The hooks use the client of the package's own main entry, so that there is one class of it.
    external: ['@pushflodev/sdk', 'react'],
    // One file each, or the CommonJS one would not begin with the banner.
    splitting: false,
    // Tells frameworks with server components where the browser's part begins.
    banner: { js: "'use client';" },
    treeshake: false,
  },
  {
    entry: { pushflo: 'src/script.ts' },
    format: ['iife'],
    target: 'es2022',
    minify: true,
    outExtension: () => ({ js: '.js' }),
  },
]);
