// `npm run bench -- boot`: the same squashfs in the same machine, by rackseed and as the seeds do it (dnsmasq + nginx + dracut livenet), from power-on to ready.
import { copyFileSync, linkSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dieWithUs, ended, stop } from '../src/lab/child.ts';
import { readableLines } from '../src/lab/console.ts';
import { createLink, labIp, type Link } from '../src/lab/link.ts';
import { labMac, probeAccel, startVm, type Accel, type VmSpec } from '../src/lab/vm.ts';
import type { ImageManifest } from '../src/images/manifest.ts';
import { createBlobStore } from '../src/store/blobs.ts';
import { dracutInitrds, type Dracut, type DracutInitrd } from './boot-dracut.ts';
import type { BenchOptions } from './dhcp.ts';
import type { Measure, Outcome } from './report.ts';
import { versionOf, written } from './start.ts';

const one = (id: string, group: string, what: string, unit: string): Measure => ({ id, group, what, unit, better: 'lower', rounds: 'median' });
/** Exported for the test that holds them against targets.json. */
export const MEASURES: readonly Measure[] = [
  one('kernel', 'from power-on', 'the kernel starts', 's'),
  one('mounted', 'from power-on', "the image's own init starts", 's'),
  one('multi-user', 'from power-on', 'multi-user', 's'),
  one('login', 'from power-on', 'login prompt', 's'),
  one('ready', 'from power-on', 'ready: its post-boot script is done', 's'),
  one('kernel-mounted', 'on the way', "from the kernel's start to the image's own init", 's'),
  one('memory', 'memory', 'touched until userspace, beyond the squashfs', 'MB'),
  one('initrd', 'size', 'initrd', 'MB'),
];

/** The lab as it was built: its own files stand beside `dist`, not beside the compiled benchmarks. */
interface BuiltLab {
  readonly image: typeof import('../src/lab/image.ts');
  readonly site: typeof import('../src/lab/site.ts');
  readonly daemon: typeof import('../src/lab/daemon.ts');
}

async function builtLab(cli: string): Promise<BuiltLab> {
  const part = <T>(name: string): Promise<T> => import(join(dirname(cli), `lab/${name}.js`)) as Promise<T>;
  return { image: await part('image'), site: await part('site'), daemon: await part('daemon') };
}

const MEMORY_MIB = 2048;
/** The machine's memory, of which there is on the host what it has touched. */
const ram = join('/dev/shm', `rackseed-bench-${process.pid}`);
const BOOT_WITHIN_MS = 300_000;
/** systemd names its version before anything else: that of an initrd, where it has one, and then the image's. */
const GREETING = /systemd\[1\]: systemd \d/g;
/** systemd says nothing on a console that has a login prompt; to the kernel's log it goes on to speak. */
const CMDLINE = 'console=ttyS0 systemd.show_status=no systemd.log_target=kmsg printk.devkmsg=on';
/** What a console shows, and which measure that is. */
const MARKS: readonly (readonly [string, RegExp])[] = [
  ['kernel', /Linux version \d/],
  ['init', GREETING],
  ['multi-user', /systemd\[1\]: Reached target multi-user\.target/],
  ['login', / login:/],
  ['ready', /node n1 is ready|seed: ready/],
];

export async function benchBoot({ root, cli, quick, only, say }: BenchOptions): Promise<Outcome> {
  const rounds = quick ? 1 : 3;
  const cache = join(root, 'node_modules/.cache/rackseed-bench-boot');
  const dir = join(tmpdir(), `rackseed-bench-boot-${process.pid}`);
  mkdirSync(dir, { recursive: true });
  process.on('exit', () => [dir, ram].forEach((path) => rmSync(path, { recursive: true, force: true })));
  const accel = await probeAccel();
  say('bench: the image, unless it is there');
  const lab = await builtLab(cli);
  const { manifest } = await lab.image.buildLabImage('bios', cache, {});
  const dracut = dracutInitrds(cache, say);
  const failures: string[] = [];
  if (dracut.kernelVersion !== manifest.kernel.version) failures.push(`dracut: its kernel is ${dracut.kernelVersion}, the image's ${manifest.kernel.version}: its modules do not fit`);
  const samples = new Map<string, Map<string, number[]>>();
  const add = (name: string, measured: ReadonlyMap<string, number>) => {
    const of = samples.get(name) ?? samples.set(name, new Map()).get(name)!;
    for (const [id, value] of measured) of.set(id, [...(of.get(id) ?? []), value]);
  };
  const racers: readonly (readonly [string, () => Promise<ReadonlyMap<string, number>>])[] = [
    ['rackseed', () => byRackseed(lab, cache, dir, manifest, accel)],
    ...(failures.length > 0 ? [] : dracut.initrds.map((initrd) => [`dracut ${initrd.name}`, () => bySeeds(root, dir, cache, manifest, initrd, accel)] as const)),
  ];
  const chosen = racers.filter(([name]) => only.length === 0 || only.some((word) => name.includes(word)));
  for (let round = 1; round <= rounds; round += 1) {
    // Each begins once, so that nobody always has the warmer caches.
    for (const [name, race] of [...chosen.slice((round - 1) % chosen.length), ...chosen.slice(0, (round - 1) % chosen.length)]) {
      say(`bench: round ${round} of ${rounds}: ${name}`);
      try {
        add(name, await race());
      } catch (error) {
        failures.push(`${name}: ${(error as Error).message}`);
      }
    }
  }
  const [ours = 'rackseed', ...peers] = chosen.map(([name]) => name);
  return {
    subject: 'boot',
    measures: MEASURES,
    samples,
    names: [ours, ...peers],
    notes: new Map(),
    machine: { cpus: cpus().length, cpu: cpus()[0]?.model ?? '', kernel: release(), node: process.version, accel, qemu: versionOf('qemu-system-x86_64', ['--version']) },
    failures,
    how: { quick, rounds, memoryMiB: MEMORY_MIB, dracut: versionsOf(dracut), image: manifest.digest, kernel: manifest.kernel.version },
  };
}

function versionsOf({ version, initrds }: Dracut): object {
  return { version, initrds: Object.fromEntries(initrds.map(({ name, bytes }) => [name, bytes])) };
}

/** The daemon as the lab starts it; the profile has no steps, so that `ready` is the agent's own time. */
async function byRackseed({ site: { createSite, LAB_PROFILE, STANDIN }, daemon: { startLabDaemon } }: BuiltLab, state: string, dir: string, manifest: ImageManifest, accel: Accel): Promise<ReadonlyMap<string, number>> {
  const node = { name: 'n1', mac: labMac(1), ip: labIp(1) };
  const site = await createSite(state, [node], STANDIN);
  let link: Link | undefined;
  try {
    writeFileSync(join(site.profilesDir, `${LAB_PROFILE}.yaml`), `image: debian-k0s\ncmdline: [${CMDLINE.replaceAll(' ', ', ')}]\nnodes: { n1: { macs: ["${node.mac}"], ip: ${node.ip} } }\n`);
    link = await createLink(1, dir);
    const daemon = await startLabDaemon(link.ns, site);
    try {
      return await timed(link, dir, manifest, accel, { bytes: manifest.initrds[0]!.size, greetings: 1 });
    } finally {
      await daemon.stop();
    }
  } finally {
    await link?.close();
    await site.remove();
  }
}

/** dnsmasq answers, nginx serves, dracut mounts. */
async function bySeeds(root: string, dir: string, state: string, manifest: ImageManifest, initrd: DracutInitrd, accel: Accel): Promise<ReadonlyMap<string, number>> {
  const place = join(dir, 'seeds');
  rmSync(place, { recursive: true, force: true });
  mkdirSync(join(place, 'www'), { recursive: true });
  const blobs = createBlobStore(state);
  for (const [name, file] of [['kernel', blobs.path(manifest.kernel.digest)], ['root.squashfs', blobs.path(manifest.squashfs.digest)], ['initrd', initrd.file]] as const) placed(file, join(place, 'www', name));
  writeFileSync(join(place, 'www/post.sh'), 'echo "seed: ready"\n');
  writeFileSync(join(place, 'www/boot.ipxe'), script(initrd.name));
  const link = await createLink(1, dir);
  const servers = [
    ['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=' + written(root, 'boot-dnsmasq.conf', join(place, 'dnsmasq.conf'), { STATE: place, SCRIPT: 'boot.ipxe' })],
    ['nginx', '-c', written(root, 'boot-nginx.conf', join(place, 'nginx.conf'), { STATE: place }), '-p', place],
  ].map((argv) => link.ns.spawn(dieWithUs(argv), { stdio: ['ignore', 'ignore', 'pipe'] }));
  const over = servers.map(async (server) => `${server.spawnargs.find((word) => /^(dnsmasq|nginx)$/.test(word))} ended: ${await ended(server)}`);
  try {
    const early = await Promise.race([...over, sleep(500)]);
    if (early !== undefined) throw new Error(early);
    return await timed(link, dir, manifest, accel, initrd);
  } finally {
    for (const server of servers) await stop(server);
    await link.close();
  }
}

/** `ip=` by iPXE's own lease saves dracut its DHCP; the stock way asks again. */
function script(variant: string): string {
  const live = 'root=live:http://10.77.0.1:8080/root.squashfs rd.live.image rd.live.overlay.overlayfs=1 rd.neednet=1';
  const lean = 'ip=${ip}::${gateway}:${netmask}:n1::none rd.plymouth=0 plymouth.enable=0 rd.md=0 rd.dm=0 rd.lvm=0 rd.luks=0 rd.udev.log_level=3 lsm=landlock,lockdown,yama,apparmor';
  return `#!ipxe\nkernel http://10.77.0.1:8080/kernel initrd=initrd ${CMDLINE} ${live} ${variant === 'seeds' ? 'ip=dhcp' : lean}\ninitrd http://10.77.0.1:8080/initrd\nboot\n`;
}

/** Seconds from power-on to each mark, of one boot; Error with the console's last lines when one is not reached. */
async function timed(link: Link, dir: string, manifest: ImageManifest, accel: Accel, { bytes, greetings }: { readonly bytes: number; readonly greetings: number }): Promise<ReadonlyMap<string, number>> {
  const more = ['-object', `memory-backend-file,id=ram,size=${MEMORY_MIB}M,mem-path=${ram},share=on`, '-machine', 'memory-backend=ram'];
  const spec: VmSpec = { name: 'n1', mac: labMac(1), tap: link.taps[0]!, memoryMiB: MEMORY_MIB, cpus: 1, firmware: 'bios', accel, more };
  const vm = startVm(link.ns, spec, dir);
  const seen = new Map<string, number>();
  const measured = new Map<string, number>([['initrd', bytes / 1e6]]);
  try {
    while (seen.size < MARKS.length) {
      const at = (Date.now() - vm.startedAt) / 1000;
      const text = readFileSync(vm.console.log, 'latin1');
      for (const [id, pattern] of MARKS) {
        if (seen.has(id) || (text.match(pattern)?.length ?? 0) < (id === 'init' ? greetings : 1)) continue;
        seen.set(id, at);
        if (id === 'init') measured.set('memory', (statSync(ram).blocks * 512 - manifest.squashfs.size) / 1e6);
      }
      if (at * 1000 > BOOT_WITHIN_MS) throw new Error(`no ${MARKS.filter(([id]) => !seen.has(id)).map(([id]) => id).join(', ')} within ${BOOT_WITHIN_MS / 1000} s; its console ends with:\n  ${readableLines(text).slice(-8).join('\n  ')}`);
      await sleep(20);
    }
  } finally {
    await vm.kill();
    rmSync(ram, { force: true });
  }
  for (const id of ['kernel', 'multi-user', 'login', 'ready'] as const) measured.set(id, seen.get(id)!);
  measured.set('mounted', seen.get('init')!);
  measured.set('kernel-mounted', seen.get('init')! - seen.get('kernel')!);
  return measured;
}


function placed(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    // Another file system.
    copyFileSync(from, to);
  }
}
