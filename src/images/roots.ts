// Debian's packages as they were unpacked and configured under emulation, kept: that takes minutes, and whatever else changes in an image needs it as it was.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { digestOfValue, hexOf } from '../digest.ts';
import { lineOf } from '../errors.ts';
import { BUILDER } from './inputs.ts';
import type { ArchSpec } from './spec.ts';
import type { Workshop } from './workshop.ts';

/** A root that is older is made anew, with what Debian has published since. */
const OLDEST_MS = 7 * 86_400_000;
/** Owners by number, hard links and file capabilities too. */
const TAR = ['tar', '--numeric-owner', '--xattrs', '--xattrs-include=*'];

export interface KeptRoot {
  /** Fills `root`, and answers whether it could. */
  restore(shop: Workshop, root: string): Promise<boolean>;
  /** Keeps `root` for later builds, in place of those that are too old; answers why it could not. That is no fault: the next build takes longer. */
  keep(shop: Workshop, root: string): Promise<string | undefined>;
}

/** The root of this spec's packages below `<stateDir>/cache/roots`, one archive of some 300 MB each. */
export function keptRoot(stateDir: string, { base, arch, kernel, packages, exclude }: ArchSpec): KeptRoot {
  const dir = join(stateDir, 'cache', 'roots');
  const file = join(dir, `${hexOf(digestOfValue({ builder: BUILDER, base, arch, kernel: kernel.package, packages, exclude }))}.tar`);
  const fresh = (path: string): boolean => existsSync(path) && statSync(path).mtimeMs > Date.now() - OLDEST_MS;
  return {
    async restore(shop, root) {
      if (!fresh(file)) return false;
      mkdirSync(root, { recursive: true });
      if ((await shop.asRoot([...TAR, '-xpf', file, '-C', root])) === 0) return true;
      // One that can be read is not to blame: a full disk is.
      if ((await shop.asRoot(['sh', '-c', 'tar -tf "$1" >/dev/null', 'sh', file])) !== 0) rmSync(file, { force: true });
      await shop.asRoot(['rm', '-rf', root]);
      return false;
    },
    async keep(shop, root) {
      // Made in the workshop, which goes with a build that is interrupted.
      const made = join(shop.dir, 'root.tar');
      try {
        mkdirSync(dir, { recursive: true });
        for (const name of readdirSync(dir)) if (!fresh(join(dir, name))) rmSync(join(dir, name), { force: true });
        const code = await shop.asRoot([...TAR, '-cf', made, '-C', root, '--exclude=./dev/*', '--exclude=./var/cache/apt/archives/*.deb', '.']);
        if (code !== 0) return shop.said().split('\n').filter((line) => !/exiting now|exiting with failure/i.test(line)).at(-1) || `tar ended with ${code}`;
        renameSync(made, file);
        return undefined;
      } catch (error) {
        // An interruption too: the build's next step meets it.
        return lineOf(error);
      } finally {
        rmSync(made, { force: true });
      }
    },
  };
}
