// Steps of image.yaml's `onboot` in a machine, which read what a disk labelled RACKSEED-CONFIG brought: a failed one ends the boot before any service, a good one does not. Only with RACKSEED_FULL=1.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildImage } from '../../src/images/build.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_PROFILE, STANDIN } from '../../src/lab/site.ts';
import { probeAccel, type Vm } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { openDir, removeDir, TEST_STATE, until } from '../lab-process.ts';

const IMAGE = `from: debian-k0s
onboot:
  - { name: first, run: "echo first >/run/steps" }
  - name: second
    run: |
      echo second >>/run/steps
      cat /config/site/rack || { echo "no rack is written on the disk"; exit 1; }
      echo "rack $(cat /config/site/rack), steps $(tr '\\n' ' ' </run/steps)" >/dev/console
  - { name: third, run: "echo third >>/run/steps; echo 'the third step ran' >/dev/console" }
`;

const dir = openDir();
let lab: Lab;
let vm: Vm | undefined;

beforeAll(async () => {
  mkdirSync(join(dir, 'images/k0s-onboot'), { recursive: true });
  writeFileSync(join(dir, 'images/k0s-onboot/image.yaml'), IMAGE);
  mkdirSync(TEST_STATE, { recursive: true });
  const build = (name: string) => buildImage({ name, imagesDir: [join(dir, 'images'), SHIPPED.images], stateDir: TEST_STATE, onProgress: () => undefined });
  await build('debian-k0s');
  await build('k0s-onboot');
  lab = await startLab({ state: TEST_STATE, nodes: 1, firmware: 'bios', memoryMiB: 2048, accel: await probeAccel(), release: STANDIN });
  const file = join(lab.site.profilesDir, `${LAB_PROFILE}.yaml`);
  const generation = async () => (await lab.daemon.get<{ id: string }>('/api/generation')).body.id;
  const before = await generation();
  writeFileSync(`${file}.new`, readFileSync(file, 'utf8').replace(/^image: .*$/m, 'image: k0s-onboot'));
  renameSync(`${file}.new`, file);
  await until('the daemon to take the edit', 20_000, async () => ((await generation()) === before ? undefined : true));
}, 900_000);
afterAll(async () => {
  await vm?.kill();
  await lab?.close();
  removeDir(dir);
});

const log = () => readFileSync(vm!.console.log, 'utf8');

/** A boot with this disk in the machine, to its end. */
async function boot(...device: readonly string[]) {
  await vm?.kill();
  const [n1] = lab.nodes;
  vm = lab.powerOn({ ...n1!, vm: { ...n1!.vm, more: device } });
  const since = vm.startedAt;
  return until('the end of the boot', 300_000, async () => {
    const newest = await lab.newestBoot('n1', since);
    return newest && newest.state !== 'open' ? newest : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${log().slice(-4000)}`);
  });
}

/** The tree that a disk carries, its rack written on it. */
function tree(rack: string): string {
  const root = join(dir, rack);
  mkdirSync(join(root, 'site'), { recursive: true });
  writeFileSync(join(root, 'site/rack'), `${rack}\n`);
  return root;
}

test('a step that fails ends the boot with its last line, and no service is started', async () => {
  const { state, why } = await boot();
  expect([state, why]).toEqual(['failed', 'onboot second: no rack is written on the disk']);
  expect(log()).toContain('rackseed: failed: onboot second: no rack is written on the disk');
  expect(log()).not.toContain('the third step ran');
  expect(log()).not.toMatch(/Start(ed|ing) (dbus|systemd-logind)|step 10-storage|node n1 is ready/);
});

test('a disk with vfat is read, and the steps run in their order before the services', async () => {
  const stick = join(dir, 'stick');
  execFileSync('mformat', ['-C', '-i', stick, '-T', '20480', '-v', 'RACKSEEDCFG', '::']);
  execFileSync('mcopy', ['-s', '-i', stick, join(tree('r7'), 'site'), '::']);
  const { state, why } = await boot('-drive', `file=${stick},format=raw,if=virtio`);
  expect([state, why]).toEqual(['ready', undefined]);
  // mformat's boot sector is taken for a table of partitions by some kernels.
  expect(log()).toMatch(/rackseed: \/dev\/vda1? is the disk RACKSEEDCFG: its files are in \/config/);
  expect(log()).toMatch(/rack r7, steps first second[^]*the third step ran[^]*step 10-storage/);
});

test('a CD is read, too', async () => {
  const cd = join(dir, 'cd.iso');
  execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-V', 'RACKSEED-CONFIG', '-R', '-o', cd, tree('r8')], { stdio: 'pipe' });
  const { state, why } = await boot('-drive', `file=${cd},format=raw,media=cdrom,if=ide`);
  expect([state, why]).toEqual(['ready', undefined]);
  expect(log()).toContain('rackseed: /dev/sr0 is the disk RACKSEED-CONFIG: its files are in /config');
  expect(log()).toMatch(/rack r8, steps first second/);
});
