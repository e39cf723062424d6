// Where the lab finds a package's file that may be installed or only unpacked.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { placeOf } from '../../src/lab/unpacked.ts';
import { openDir, removeDir } from '../lab-process.ts';

let beside: string;
beforeEach(() => void (beside = openDir()));
afterEach(() => removeDir(beside));

function unpacked(root: string, file: string): string {
  const path = join(beside, root, file);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '');
  return path;
}

test('an installed file is where its package puts it, whatever is unpacked', () => {
  unpacked('sid_coreutils_amd64', '/usr/bin/env');
  expect(placeOf('/usr/bin/env', 'coreutils', beside)).toBe('/usr/bin/env');
});

test('any other is looked for in what was unpacked of its own package, of any suite', () => {
  unpacked('sid_ipxe-qemu_amd64', '/usr/lib/rackseed-test/x.efi');
  expect(placeOf('/usr/lib/rackseed-test/x.efi', 'ipxe', beside)).toBeUndefined();
  const path = unpacked('trixie_ipxe_arm64', '/usr/lib/rackseed-test/x.efi');
  expect(placeOf('/usr/lib/rackseed-test/x.efi', 'ipxe', beside)).toBe(path);
});

test('it is nowhere when nothing was unpacked, also no directory for it', () => {
  expect(placeOf('/usr/lib/rackseed-test/x.efi', 'ipxe', join(beside, 'none'))).toBeUndefined();
});
