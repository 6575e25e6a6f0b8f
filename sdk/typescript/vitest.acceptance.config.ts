import { defineConfig } from 'vitest/config';

/** Tests of the package as it is built and installed, with other programs and the real server. */
export default defineConfig({
  test: {
    include: ['acceptance/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
