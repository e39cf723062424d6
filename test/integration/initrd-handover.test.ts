// What the initrd stage mounts in systemd's place: as the image's units say, by busybox ash and real mounts.
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createStageShell, put, type StageShell } from './stage-shell.ts';

/** As systemd 257 of Debian 13 ships it. */
const TMP = '[Unit]\nDescription=Temporary Directory /tmp\nConditionPathIsSymbolicLink=!/tmp\n\n[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\nOptions=mode=1777,strictatime,nosuid,nodev,size=50%%,nr_inodes=1m\n';
const MADE = 'mount -o bind "$ROOT" "$ROOT"; api_mounts';

let stage: StageShell;
const inRoot = (path: string) => join(stage.dir, 'root', path);
/** The mounts below the root, as /proc/self/mounts has them. */
const mounts = async () => (await stage.run(`${MADE}; sed -n "s, $ROOT/, /,p" /proc/self/mounts`)).filter(Boolean);

function unit(name: string, text: string, target = 'local-fs.target'): void {
  put(inRoot(`usr/lib/systemd/system/${name}`), text);
  mkdirSync(inRoot(`usr/lib/systemd/system/${target}.wants`), { recursive: true });
  symlinkSync(`../${name}`, inRoot(`usr/lib/systemd/system/${target}.wants/${name}`));
}

beforeEach(() => {
  stage = createStageShell();
  for (const path of ['tmp', 'srv', 'queue', 'etc/systemd/system']) mkdirSync(inRoot(path), { recursive: true });
});
afterEach(() => stage.close());

describe('what systemd would mount first', () => {
  it('is mounted with the options of its unit', async () => {
    unit('tmp.mount', TMP);
    unit('queue.mount', '[Mount]\nWhat=mqueue\nWhere=/queue\nType=mqueue\nOptions=nosuid,nodev,noexec\n', 'sysinit.target');
    const [queue, tmp] = (await mounts()).sort();
    expect(queue).toMatch(/^mqueue \/queue mqueue rw,nosuid,nodev,noexec,relatime/);
    expect(tmp).toMatch(/^tmpfs \/tmp tmpfs rw,nosuid,nodev,(size=\d+k,)?nr_inodes=1048576/);
    expect(await stage.run(`${MADE}; stat -c %a "$ROOT/tmp"`)).toEqual(['1777']);
  });

  it.each([
    ['masks', () => symlinkSync('/dev/null', inRoot('etc/systemd/system/tmp.mount'))],
    ['replaces', () => put(inRoot('etc/systemd/system/tmp.mount'), TMP.replace('/tmp', '/srv'))],
    ['replaces by a link', () => symlinkSync('/usr/lib/other.mount', inRoot('etc/systemd/system/tmp.mount'))],
    ['changes', () => put(inRoot('etc/systemd/system/tmp.mount.d/size.conf'), '[Mount]\nOptions=size=1g\n')],
  ])('is left alone where the image %s its unit', async (_what, change) => {
    unit('tmp.mount', TMP);
    change();
    expect(await mounts()).toEqual([]);
  });

  it.each([
    ['a device', '[Mount]\nWhat=/dev/sda1\nWhere=/srv\nType=ext4\n'],
    ['what needs a module', '[Mount]\nWhat=fusectl\nWhere=/srv\nType=fusectl\n'],
    ['a place that the image does not have', TMP.replace('Where=/tmp', 'Where=/nowhere')],
    ['a link', TMP.replace('Where=/tmp', 'Where=/link')],
    ['a unit without a type', '[Mount]\nWhat=tmpfs\nWhere=/srv\n'],
  ])('is left to systemd when it is %s', async (_what, text) => {
    symlinkSync('srv', inRoot('link'));
    unit('tmp.mount', text);
    expect(await mounts()).toEqual([]);
  });

  it('is nothing in an image without systemd', async () => {
    expect(await mounts()).toEqual([]);
  });
});
