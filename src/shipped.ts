// Where the files stand that rackseed ships beside its code; right from src/ and from dist/ alike.
import { fileURLToPath } from 'node:url';

const at = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

export const SHIPPED = {
  images: at('images'),
  postBoot: at('post-boot'),
  bootProfiles: at('boot-profiles'),
  migrations: at('migrations'),
  /** The stand-in release that lab and CI use in place of k0s. */
  k0sStandin: at('src/lab/k0s-standin'),
  /** Not shipped: what src/setup/suites.mjs fetched, one root directory a package. */
  unpacked: at('node_modules/.cache/rackseed-suites'),
  packageJson: at('package.json'),
} as const;
