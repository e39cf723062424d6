// An image's serial: seconds since 1970, and more than any earlier build of its name ever had, also when two builds end in one second.
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageStore } from './manifest.ts';

/** Neither a manifest nor a tag has a name that begins with a dot. */
const CLAIM = /^\.serial\.(\d+)$/;

/**
 * Claims the next serial of `name`, for good: the claim is a file that only one build can create, and the newest one stays, so that a serial is not
 * given twice after `image rm` either. `now` in milliseconds.
 */
export async function claimSerial(stateDir: string, images: Pick<ImageStore, 'list'>, name: string, now: number): Promise<number> {
  const dir = join(stateDir, 'images', name);
  await mkdir(dir, { recursive: true });
  const claims = async (): Promise<number[]> => (await readdir(dir)).flatMap((file) => CLAIM.exec(file)?.[1] ?? []).map(Number);
  const earlier = (await images.list()).flatMap((manifest) => (manifest.name === name ? [manifest.serial ?? 0] : []));
  for (let serial = Math.max(Math.floor(now / 1000), ...[...earlier, ...(await claims())].map((one) => one + 1)); ; serial++) {
    try {
      await (await open(join(dir, `.serial.${serial}`), 'wx', 0o644)).close();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      continue;
    }
    for (const old of await claims()) if (old < serial) await rm(join(dir, `.serial.${old}`), { force: true });
    return serial;
  }
}
