// Each firmware of the lab, from power-on to ready: stages in order, and how long each took. `npm test` has one row, `npm run test:firmware` all.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { loaderVersion } from '../../src/boot/loader.ts';
import { expectedStages, stageOf, type Boot } from '../../src/boot/timeline.ts';
import { dieWithUs } from '../../src/lab/child.ts';
import { firmwareRow, howToGet, LAB_FIRMWARE, missingPackages, placed, type LabFirmware } from '../../src/lab/firmware.ts';
import { buildLabImage, LAB_UKI_CMDLINE } from '../../src/lab/image.ts';
import { startLab, type Lab } from '../../src/lab/lab.ts';
import { LAB_BRIDGE } from '../../src/lab/link.ts';
import { STANDIN } from '../../src/lab/site.ts';
import { nodeReport, stageLines, type NodeReport } from '../../src/lab/stages.ts';
import { placeOf } from '../../src/lab/unpacked.ts';
import { probeAccel, type Accel } from '../../src/lab/vm.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { ended, said } from '../integration/lan.ts';
import { CLI, start, TEST_STATE, until } from '../lab-process.ts';
import { payloads } from './pcap.ts';

/** Where the rows of `npm run test:firmware` are written (src/setup/firmware.mjs); without it this is a part of `npm test`. */
const RESULTS = process.env['RACKSEED_FIRMWARE_RESULTS'];
/** A directory for what the machines sent by DHCP, for test/golden/dhcp. */
const CAPTURES = process.env['RACKSEED_FIRMWARE_CAPTURES'];
/** `bios` is in lab-boot.test.ts. */
const FIRMWARE: readonly LabFirmware[] = RESULTS ? LAB_FIRMWARE : ['uefi'];
/** A first build of the image with all drivers. */
const BUILD_LIMIT_MS = 15 * 60_000;
/** Emulated on two idle cores a boot takes about a minute, with a load of 8 beside it three times as long. */
const LIMIT_MS = 8 * 60_000;
const STEPS = readdirSync(join(SHIPPED.postBoot, 'k0s-single')).sort();

/** One row of test/firmware-results.json. */
interface Row {
  readonly firmware: LabFirmware;
  readonly what: string;
  readonly outcome: 'ready' | 'failed' | 'not run';
  readonly why?: string;
  /** Since power-on. */
  readonly seconds?: Readonly<Record<string, number>>;
  readonly versions?: Readonly<Record<string, string>>;
}

const rows: Row[] = [];
let accel: Accel;
let lab: Lab | undefined;

beforeAll(async () => {
  mkdirSync(TEST_STATE, { recursive: true });
  accel = await probeAccel();
});
afterEach(async () => {
  await lab?.close();
  lab = undefined;
});
afterAll(() => {
  if (RESULTS) writeFileSync(RESULTS, JSON.stringify(rows));
});

function versionOf(debianPackage: string): string {
  const { status, stdout } = spawnSync('dpkg-query', ['-W', '-f', '${Version}', debianPackage], { encoding: 'utf8' });
  if (status === 0 && stdout !== '') return stdout;
  // One that was unpacked: the first line of its changelog.
  const changelog = placeOf(`/usr/share/doc/${debianPackage}/changelog.Debian.gz`, debianPackage);
  return (changelog && /\((.*?)\)/.exec(gunzipSync(readFileSync(changelog)).toString())?.[1]) ?? 'unknown';
}

/** What the row's machines are given where the profile asks for nothing. */
function loaderOf(firmware: LabFirmware): string {
  const { newerLoader } = firmwareRow(firmware);
  return newerLoader === undefined ? 'snponly.efi' : basename(newerLoader);
}

function versionsOf(firmware: LabFirmware, kernel: string): Row['versions'] {
  const { edk2, loader, arch, newerLoader } = firmwareRow(firmware);
  return {
    firmware: arch ? `qemu-efi-aarch64 ${versionOf('qemu-efi-aarch64')}` : edk2 ? `ovmf ${versionOf('ovmf')}` : `seabios ${versionOf('seabios')}`,
    loader: loader === 'uki' ? `systemd-boot-efi ${versionOf('systemd-boot-efi')} stub` : newerLoader ? `ipxe ${loaderVersion(readFileSync(placed(firmware, newerLoader)))} ${loaderOf(firmware)}` : edk2 ? `ipxe ${versionOf('ipxe')} snponly.efi` : `ipxe-qemu ${versionOf('ipxe-qemu')}, the card's ROM`,
    kernel,
    qemu: arch ? `${versionOf('qemu-system-arm')} tcg` : `${versionOf('qemu-system-x86')} ${accel}`,
  };
}

/** Boots n1 and answers its boot when it has ended, with what the lab would report of it. */
async function bootToEnd(running: Lab): Promise<{ readonly boot: Boot; readonly report: NodeReport; readonly console: string }> {
  const [n1] = running.nodes;
  const vm = running.powerOn(n1!);
  const boot = await until('the boot', LIMIT_MS, async () => {
    const seen = await running.newestBoot(n1!.name);
    return seen && seen.state !== 'open' ? seen : undefined;
  }).catch((error: Error) => {
    throw new Error(`${error.message}\n${readFileSync(vm.console.log, 'utf8').slice(-3000)}\n${readFileSync(running.daemon.log, 'utf8').slice(-3000)}`);
  });
  console.log(stageLines(n1!.name, vm.startedAt, undefined, boot, false).join('\n'));
  return { boot, report: nodeReport(n1!.name, vm.startedAt, boot), console: readFileSync(vm.console.log, 'utf8') };
}

/** Whatever goes to and from the ports of DHCP and PXE on the lab's bridge; answers how to end it, which keeps what came from machines. */
async function capture(running: Lab, firmware: LabFirmware, dir: string): Promise<() => Promise<void>> {
  const file = join(running.site.dir, 'dhcp.pcap');
  const child = running.link.ns.spawn(dieWithUs(['tcpdump', '--immediate-mode', '-U', '-Z', 'root', '-i', LAB_BRIDGE, '-w', file, 'udp port 67 or udp port 68 or udp port 4011']), { stdio: ['ignore', 'pipe', 'pipe'] });
  await said(child, /listening on/);
  return async () => {
    await ended(child);
    mkdirSync(dir, { recursive: true });
    for (const [n, { port, bytes }] of payloads(readFileSync(file)).entries()) {
      if (port !== 68) writeFileSync(join(dir, `${firmware}-${String(n).padStart(2, '0')}-to_${port}.hex`), `${Buffer.from(bytes).toString('hex').replace(/.{64}/g, '$&\n').trimEnd()}\n`);
    }
  };
}

test.each(FIRMWARE.map((firmware) => [firmware, firmwareRow(firmware).what] as const))('%s (%s) gets ready', { timeout: BUILD_LIMIT_MS + LIMIT_MS + 60_000 }, async (firmware, what) => {
  const { chain, edk2, proxy, loader } = firmwareRow(firmware);
  const byGrub = chain.endsWith('-grub');
  const missing = missingPackages(firmware);
  if (missing.length > 0) {
    rows.push({ firmware, what, outcome: 'not run', why: `not installed: ${missing.join(' ')}` });
    expect(RESULTS, howToGet(firmware, missing)).toBeDefined();
    return;
  }
  const { manifest } = await buildLabImage(firmware, TEST_STATE, { onProgress: () => undefined });
  const versions = versionsOf(firmware, manifest.kernel.version)!;
  try {
    lab = await startLab({ state: TEST_STATE, nodes: 1, firmware, memoryMiB: 2048, accel, release: STANDIN });
    const captured = CAPTURES ? await capture(lab, firmware, CAPTURES) : undefined;
    const { boot, report, console } = await bootToEnd(lab);
    await captured?.();
    expect([boot.state, boot.why]).toEqual(['ready', undefined]);
    expect(boot.stages.map(({ name }) => name)).toEqual(expectedStages(chain, STEPS));
    expect(boot.stages.filter(({ state }) => state !== 'ok')).toEqual([]);
    // A chain without a loader of ours is that of an iPXE in ROM, or of a UKI.
    const { message, version } = stageOf(boot, 'loader')?.detail ?? {};
    expect(message).toBe(byGrub ? 'grubnetx64.efi.signed' : chain.startsWith('uefi') && loader === undefined ? loaderOf(firmware) : undefined);
    expect([console.includes('iPXE'), console.includes(`Command line: ${LAB_UKI_CMDLINE}`)]).toEqual([loader !== 'uki' && !byGrub, loader === 'uki']);
    // The kernel does so for `integrity`: /sys/kernel/security/lockdown.
    expect([/Secure boot enabled/.test(console), /Kernel is locked down from EFI Secure Boot/.test(console)]).toEqual(edk2?.smm ? [true, true] : [false, false]);
    expect(await lab.otherServer?.leases()).toEqual(proxy ? [[lab.nodes[0]!.mac, boot.ip]] : undefined);
    rows.push({ firmware, what, outcome: 'ready', seconds: Object.fromEntries(report.stages.map(({ name, sinceStartMs }) => [name, Number((sinceStartMs / 1000).toFixed(1))])), versions: byGrub ? { ...versions, loader: `shim, ${message} ${version}` } : versions });
  } catch (error) {
    rows.push({ firmware, what, outcome: 'failed', why: (error as Error).message.split('\n')[0]!, versions });
    throw error;
  }
});

test('firmware whose package is not installed is refused with the apt line, before anything is built or started', async () => {
  const state = join(TEST_STATE, 'none');
  // Nobody's files are there, for this one process.
  const hidden = ['unshare', ...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']), '--mount', '--', 'sh', '-c', 'mount -t tmpfs none /usr/share/OVMF && exec "$@"', 'sh'];
  const refused = start([...hidden, process.execPath, CLI, 'lab', '--once', '--firmware', 'uefi', '--state', state]);
  expect(await refused.ended).toBe(69);
  expect(refused.stderr()).toMatch(/the lab needs ovmf\n.*apt-get install --no-install-recommends ovmf \[PACKAGES_MISSING\]/);
  expect(existsSync(state)).toBe(false);
});
