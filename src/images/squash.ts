// The squashfs of a root, and its dm-verity hash tree, which stands in the same file right after its blocks.
import { statSync } from 'node:fs';
import type { VerityRef } from '../boot/profile.ts';
import { AppError } from '../errors.ts';
import { EPOCH, must, type Workshop } from './workshop.ts';

/** Measured on the whole root (docs/decisions/initrd.md): 15 takes four times as long for 5 % less. */
const LEVEL = 9;
/** Bytes, of data and hash blocks alike: what the kernel reads at once, and mksquashfs pads its file to. */
const BLOCK = 4096;

/** AppError IMAGE_BUILD_FAILED with mksquashfs' last words. */
export async function makeSquashfs(root: string, to: string, shop: Workshop, at: (fraction: number) => void): Promise<void> {
  const options = ['-noappend', '-progress', '-comp', 'zstd', '-Xcompression-level', String(LEVEL)];
  // mksquashfs takes either the variable, which only cuts off later times, or the options, which set all of them.
  const argv = ['env', '-u', 'SOURCE_DATE_EPOCH', 'mksquashfs', root, to, ...options, '-mkfs-time', String(EPOCH), '-all-time', String(EPOCH)];
  await must(shop, argv, 'the squashfs could not be made', (line) => {
    const percent = /(\d+)%$/.exec(line)?.[1];
    if (percent) at(Number(percent) / 100);
  });
}

/** Adds the hash tree, without salt and superblock: equal blocks give an equal tree, and all that a reader must know is in the answer. */
export async function addVerity(squashfs: string, shop: Workshop): Promise<VerityRef> {
  const { size } = statSync(squashfs);
  if (size === 0 || size % BLOCK !== 0) throw new AppError('IMAGE_BUILD_FAILED', `the squashfs has ${size} bytes, which are no whole blocks of ${BLOCK}`, `the whole log is ${shop.log}`);
  const blocks = size / BLOCK;
  let rootHash: string | undefined;
  const argv = ['veritysetup', 'format', '--no-superblock', '--format=1', '--hash=sha256', `--data-block-size=${BLOCK}`, `--hash-block-size=${BLOCK}`, '--salt=-', `--data-blocks=${blocks}`, `--hash-offset=${size}`, squashfs, squashfs];
  await must(shop, argv, 'the hash tree could not be made', (line) => (rootHash = /^Root hash:\s+([0-9a-f]{64})$/.exec(line)?.[1] ?? rootHash));
  if (rootHash === undefined) throw new AppError('IMAGE_BUILD_FAILED', 'veritysetup named no root hash', `the whole log is ${shop.log}`);
  return { rootHash, blocks };
}
