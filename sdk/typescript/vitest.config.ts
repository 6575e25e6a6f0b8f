import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = (path: string) => fileURLToPath(new URL(`src/${path}`, import.meta.url));

export default defineConfig({
  resolve: {
    alias: { '@pushflodev/sdk': source('index.ts'), '#webcrypto': source('server/webcrypto-node.ts') },
  },
  test: { include: ['test/**/*.test.{ts,tsx}'], restoreMocks: true },
});
