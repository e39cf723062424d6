// iPXE 2.0 of Debian sid as a loader set beside the built-in one: EDK2's PXE starts it, and it runs the node's script. Only with RACKSEED_FULL=1.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hasStage, stageOf } from '../../src/boot/timeline.ts';
import { loaderAdd, loaderList } from '../../src/commands/loader.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { createImageStore, imageDigest } from '../../src/images/manifest.ts';
import { LAB_IMAGE } from '../../src/lab/image.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { probeAccel } from '../../src/lab/vm.ts';
// @ts-expect-error plain JavaScript
import { fetchIpxe2 } from '../../src/setup/suites.mjs';
import { createBlobStore } from '../../src/store/blobs.ts';
import { until } from '../lab-process.ts';

const ROOT = new URL('../../', import.meta.url).pathname;

let state: string;
let lab: Lab | undefined;
beforeEach(() => void (state = mkdtempSync(join(tmpdir(), 'rackseed-ipxe2-'))));
afterEach(async () => {
  await lab?.close();
  rmSync(state, { recursive: true });
});

/** An image that is fetched and never runs: what the loader is asked for ends there. */
async function publishImage(): Promise<void> {
  const [blobs, images] = [createBlobStore(state), createImageStore(state)];
  const [kernel, initrd, squashfs] = (await Promise.all(['kernel', 'initrd', 'squashfs'].map((what) => blobs.add(Readable.from([Buffer.from(what)]))))) as [{ digest: string; size: number }, { digest: string; size: number }, { digest: string; size: number }];
  const digest = imageDigest({ arch: 'amd64', kernel, initrds: [initrd], squashfs });
  const made = { packages: [], input: digest, builder: 'test', builtAt: 0 };
  await images.put({ name: LAB_IMAGE, digest, arch: 'amd64', kernel: { ...kernel, version: '0' }, initrds: [initrd], squashfs: { ...squashfs, chunkSize: 4 << 20, chunks: [squashfs.digest.slice(7)] }, ...made });
  await images.tag(LAB_IMAGE, 'latest', digest);
}

test('a node with loaders: ipxe-2.0 starts it by PXE, and it fetches script and kernel', { timeout: 10 * 60_000 }, async () => {
  const dir = (await fetchIpxe2(ROOT)) as string;
  await publishImage();
  lab = await startLab({ state, nodes: 1, firmware: 'uefi', memoryMiB: 1024, accel: await probeAccel(), release: STANDIN });
  const { nodes: [n1], newestBoot, powerOn, site, daemon } = lab;
  await loaderAdd('ipxe-2.0', [dir], { config: site.settingsFile, output: 'table' });
  const profile = join(site.profilesDir, `${LAB_PROFILE}.yaml`);
  writeFileSync(profile, `${readFileSync(profile, 'utf8')}\nloaders: ipxe-2.0\n`);
  await until('the daemon to have read it', 30_000, async () => ((await loaderList({ config: site.settingsFile, output: 'json' })).includes('"after reload"') ? undefined : true));

  const vm = powerOn(n1!);
  const boot = await until('the kernel', 300_000, async () => {
    const newest = await newestBoot(n1!.name);
    return newest && (newest.state !== 'open' || hasStage(newest, 'kernel')) ? newest : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(daemon.log, 'utf8').slice(-5000)}`);
  });
  console.log(`seconds since power-on: ${boot.stages.map(({ name }) => `${name} ${((stageOf(boot, name)!.firstAt - vm.startedAt) / 1000).toFixed(1)}`).join(', ')}`);
  expect(boot.stages.map(({ name }) => name).slice(0, 6), readFileSync(daemon.log, 'utf8').slice(-8000)).toEqual(['discover', 'offer', 'lease', 'loader', 'script', 'kernel']);
  expect(stageOf(boot, 'loader')!.detail).toMatchObject({ message: 'ipxe-2.0/snponly.efi', digest: digestOfBytes(readFileSync(join(dir, 'snponly.efi'))), version: expect.stringMatching(/^2\.\d/) as string });
});
