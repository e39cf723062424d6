// Three projects: pure and state tests run anywhere; integration and e2e run inside a namespace of their own (see src/setup.mjs).
import { defineConfig } from 'vitest/config';

/** Minutes of VMs on a bad link, so it is no part of `npm test` at all: a test that is skipped would be a failure. */
export const ONLY_IN_FULL = ['boot-loss', 'image-disks', 'image-locked', 'image-onboot', 'image-tamper', 'links', 'loader-set', 'node-life', 'secure-boot', 'uki', 'image-shipped', 'initrd-stage'].map((name) => `test/e2e/${name}.test.ts`);

export default defineConfig({
  root: new URL("..", import.meta.url).pathname,
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts', 'test/golden/**/*.test.ts', 'test/conformance/**/*.test.ts'], testTimeout: 20_000 } },
      { test: { name: 'integration', include: ['test/integration/**/*.test.ts', 'test/durability/**/*.test.ts', 'test/differential/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 60_000, fileParallelism: false } },
      { test: { name: 'e2e', include: ['test/e2e/**/*.test.ts'], exclude: process.env['RACKSEED_FULL'] === '1' ? [] : ONLY_IN_FULL, testTimeout: 600_000, hookTimeout: 600_000, fileParallelism: false } },
    ],
  },
});
