// The image of a lab whose machine needs another kernel: a copy of the shipped one, which itself stays as it is.
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readImageSpec } from '../../src/images/spec.ts';
import { firmwareRow, LAB_FIRMWARE } from '../../src/lab/firmware.ts';
import { imagesDirFor, LAB_IMAGE } from '../../src/lab/image.ts';
import { SHIPPED } from '../../src/shipped.ts';

let state: string;
beforeEach(() => void (state = mkdtempSync(join(tmpdir(), 'rackseed-lab-image-'))));
afterEach(() => rmSync(state, { recursive: true, force: true }));

test.each(LAB_FIRMWARE.filter((name) => firmwareRow(name).drivers || firmwareRow(name).arch))('%s boots a copy that differs in the kernel and the processor alone', async (firmware) => {
  const shipped = readFileSync(join(SHIPPED.images, LAB_IMAGE, 'image.yaml'), 'utf8');
  for (const _twice of [1, 2]) {
    const dir = await imagesDirFor(firmware, state);
    expect([lstatSync(dir).isSymbolicLink(), dir.startsWith(state)]).toEqual([false, true]);
    const [mine, theirs] = [readImageSpec(dir, LAB_IMAGE), readImageSpec(SHIPPED.images, LAB_IMAGE)];
    const arch = firmwareRow(firmware).arch ?? 'amd64';
    expect(mine).toEqual({ ...theirs, arch: [arch], kernel: { ...theirs.kernel, package: arch === 'arm64' ? 'linux-image-cloud-arm64' : 'linux-image-amd64' } });
    expect(readdirSync(dir, { recursive: true }).sort()).toEqual(readdirSync(SHIPPED.images, { recursive: true }).sort());
  }
  expect(readFileSync(join(SHIPPED.images, LAB_IMAGE, 'image.yaml'), 'utf8')).toBe(shipped);
});

test.each(LAB_FIRMWARE.filter((name) => !firmwareRow(name).drivers && !firmwareRow(name).arch))('%s boots the shipped one', async (firmware) => {
  expect(await imagesDirFor(firmware, state)).toBe(SHIPPED.images);
  expect(readdirSync(state)).toEqual([]);
});
