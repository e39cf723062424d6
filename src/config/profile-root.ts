// What a profile says of the root: which disk keeps state, and what becomes of a node without it.
import { z } from 'zod';
import type { RootOptions } from '../boot/profile.ts';
import type { Fault } from '../errors.ts';
import { member } from './claims.ts';
import type { YamlFile } from './document.ts';
import { matching, flag } from './profile-words.ts';

const STATE = /^(none|LABEL=[A-Za-z0-9_][A-Za-z0-9._-]{0,15})$/;
/** As udev names them: `pci-0000:00:05.0`, `pci-0000:00:1f.2-ata-1-part2`. What has no dash is a kernel's name such as sda, which is another disk at the next boot. */
const BY_PATH = /^[a-z][a-z0-9]*-[A-Za-z0-9:.,_-]{1,120}$/;
/** As tmpfs reads it; a tmpfs of a few KiB boots nothing. */
const SIZE = /^(100|[1-9][0-9]?)%$|^[1-9][0-9]{0,5}[mgMG]$/;

export const rootSchema = z.strictObject({
  state: matching(STATE, 'must be none or LABEL=<label of a file system>').default('none').describe('none: a tmpfs; LABEL=x: the file system that keeps state'),
  disk: matching(BY_PATH, 'not a name of /dev/disk/by-path, such as pci-0000:00:05.0').optional().describe('the disk that gets this file system when nothing is on it, by its name in /dev/disk/by-path'),
  format: z.enum(['ext4', 'xfs']).optional().describe('what it is formatted with; default ext4'),
  wipe: flag.optional().describe('true: format it at each boot, whatever is on it'),
  onMissing: z.enum(['fail', 'ephemeral']).optional().describe('when the disk is not there: fail (default), or ephemeral: boot with a tmpfs'),
  cache: z.enum(['none', 'disk']).optional().describe('disk: keep the image there, and fetch only what changed; default none'),
  size: matching(SIZE, 'not a size of a tmpfs, such as 50% or 2g').optional().describe('the most that what is written to the root may take in RAM, such as 50% (default) or 2g'),
  minSerial: matching(/^[1-9][0-9]{0,14}$/, 'not a serial of an image: a whole number').optional().describe("an image whose manifest has a smaller serial is refused by the initrd stage"),
});

/** What is said, and nothing else: a boot set keeps its digest when the schema grows. */
export function rootOf(spec: z.output<typeof rootSchema> | null | undefined): RootOptions {
  const { state = 'none', disk, format, wipe, onMissing, cache, size, minSerial } = spec ?? {};
  return {
    state: state as RootOptions['state'],
    ...(disk === undefined ? {} : { disk }),
    ...(format === undefined ? {} : { format }),
    ...(wipe ? { wipe: true } : {}),
    ...(onMissing === undefined ? {} : { onMissing }),
    ...(cache === undefined ? {} : { cache }),
    ...(size === undefined ? {} : { size: size.toLowerCase() }),
    ...(minSerial === undefined ? {} : { minSerial: Number(minSerial) }),
  };
}

/** Members that contradict each other, each at its place. */
export function rootFaults(yaml: YamlFile, root: unknown): Fault[] {
  const said = (key: string): boolean => member(root, key) != null;
  const faults: Fault[] = [];
  const fault = (key: string, message: string, hint: string): void => void faults.push({ file: yaml.file, ...yaml.place(['root', key], { key: true }), message: `root.${key} ${message}`, hint });
  const state = member(root, 'state') ?? 'none';
  const wipes = member(root, 'wipe') === 'true';
  const caches = member(root, 'cache') === 'disk';
  if (state === 'none') {
    const needsDisk: readonly [key: string, isSaid: boolean][] = [['disk', said('disk')], ['format', said('format')], ['wipe', wipes], ['onMissing', said('onMissing')], ['cache', caches]];
    for (const [key, isSaid] of needsDisk) if (isSaid) fault(key, 'has no meaning without a disk that keeps state', 'name it: state: LABEL=<label>');
    return faults;
  }
  if (typeof state !== 'string' || !STATE.test(state)) return faults;
  if (said('format') && !said('disk')) fault('format', 'has no meaning without a disk that may be formatted', 'name it: disk: pci-0000:00:05.0');
  if (wipes && !said('disk')) fault('wipe', 'does not say which disk', 'name it: disk: pci-0000:00:05.0');
  if (wipes && caches) fault('wipe', 'takes away at each boot what cache: disk keeps', 'one of both');
  if (member(root, 'format') === 'xfs' && state.length > 'LABEL='.length + XFS_LABEL) fault('state', `has a label of more than ${XFS_LABEL} characters, which XFS cannot have`, 'a shorter label, or format: ext4');
  return faults;
}

const XFS_LABEL = 12;
