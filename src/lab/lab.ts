// A lab: a site, its boot LAN, the daemon and the machines, built once, and taken down in reverse whatever happened.
import { accessSync, constants } from 'node:fs';
import { execFile } from 'node:child_process';
import type { Ip4 } from '../addr.ts';
import type { Boot } from '../boot/timeline.ts';
import { AppError } from '../errors.ts';
import { forwardApi, startLabDaemon, type LabDaemon } from './daemon.ts';
import { copyVars, firmwareRow, howToGet, loadersDirOf, missingPackages, QEMU, type LabFirmware } from './firmware.ts';
import { labKeys } from './image.ts';
import { createLink, LAB_BRIDGE, labIp, type Link } from './link.ts';
import { startOtherServer, type OtherServer } from './neighbour.ts';
import type { Namespace } from './network.ts';
import { createSite, type Release, type Site, type SiteNode, type SiteOptions } from './site.ts';
import { labMac, qemuLine, startVm, type Accel, type Vm, type VmSpec } from './vm.ts';

/** QEMU 7.2 emulating two processors lets a guest run on stale code now and then while its kernel patches itself (docs/decisions/lab.md). */
const EMULATED_CPUS = 1;

/** Proxy mode, by the shipped defaults. */
const BESIDE_ANOTHER: object = { interfaces: [LAB_BRIDGE] };

/** A tap each on one bridge. */
export const MAX_NODES = 16;

export interface LabOptions extends SiteOptions {
  /** Kept between labs: blobs and images. Absolute. */
  readonly state: string;
  readonly nodes: number;
  readonly firmware: LabFirmware;
  readonly memoryMiB: number;
  readonly accel: Accel;
  readonly release: Release;
  /** The reservation of the n-th machine, counted from 1; default labIp. */
  readonly ipOf?: (n: number) => Ip4 | undefined;
}

export interface LabNode extends SiteNode {
  readonly vm: VmSpec;
}

export interface Lab {
  readonly site: Site;
  readonly link: Link;
  readonly daemon: LabDaemon;
  /** With firmware whose addresses somebody else gives. */
  readonly otherServer?: OtherServer;
  readonly nodes: readonly LabNode[];
  /** On the host: the API, forwarded. */
  readonly apiUrl: string;
  /**
   * Switches a node's machine on, on the lab's own link or on the taps of another namespace. Calling it while one runs is a second machine with the
   * same address: kill that one first.
   */
  powerOn(node: LabNode, ns?: Namespace): Vm;
  /** The line that starts the node's machine from another terminal. */
  qemuLine(node: LabNode): string;
  /** Newest boot of the node that started at or after `since` (milliseconds since 1970). */
  newestBoot(node: string, since?: number): Promise<Boot | undefined>;
  /** Ends everything and removes the run's files, unless they shall be kept. Safe to call twice. */
  close(options?: { readonly keep?: boolean }): Promise<void>;
}

/** LAB_UNAVAILABLE, with what to do, when this machine cannot run a lab. Cheap: before an image is built. */
export async function checkLab(options: { readonly nodes: number; readonly firmware: LabFirmware; readonly vms: boolean }): Promise<void> {
  if (!Number.isInteger(options.nodes) || options.nodes < 1 || options.nodes > MAX_NODES) throw new AppError('USAGE', `--nodes ${options.nodes}: a lab has 1 to ${MAX_NODES} nodes`);
  if (process.platform !== 'linux') throw new AppError('LAB_UNAVAILABLE', `the lab needs Linux, this is ${process.platform}`);
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new AppError('LAB_UNAVAILABLE', `/dev/net/tun: ${code === 'ENOENT' ? 'not there' : code}`, code === 'ENOENT' ? 'as root: modprobe tun; in a container: --device /dev/net/tun' : 'as root: chmod 666 /dev/net/tun, as udev does on Debian');
  }
  const programs: [string, string][] = [['unshare', 'util-linux'], ['nsenter', 'util-linux'], ['setpriv', 'util-linux'], ['ip', 'iproute2'], ['dnsmasq', 'dnsmasq-base'], ...(options.vms && !firmwareRow(options.firmware).arch ? ([[QEMU, 'qemu-system-x86']] as [string, string][]) : [])];
  const absent = (await Promise.all(programs.map(async ([program, name]) => ((await isThere(program)) ? undefined : name)))).filter((name) => name !== undefined);
  const missing = [...new Set([...absent, ...missingPackages(options.firmware)])];
  if (missing.length > 0) throw new AppError('PACKAGES_MISSING', `the lab needs ${missing.join(', ')}`, howToGet(options.firmware, missing));
}

/** Everything but the machines. Whatever fails, nothing stays. */
export async function startLab(options: LabOptions): Promise<Lab> {
  const undo: (() => Promise<unknown>)[] = [];
  const unwind = async () => {
    for (const step of undo.reverse().splice(0)) await step();
  };
  try {
    const row = firmwareRow(options.firmware);
    // Another processor than this machine's is emulated, whatever KVM can do.
    const accel = row.arch ? 'tcg' : options.accel;
    const loadersDir = loadersDirOf(options.firmware, options.state);
    const named = Array.from({ length: options.nodes }, (_, i): LabNode => {
      const ip = (options.ipOf ?? (row.proxy ? () => undefined : labIp))(i + 1);
      const node = { name: `n${i + 1}`, mac: labMac(i + 1), ...(ip ? { ip } : {}) };
      return { ...node, vm: { name: node.name, mac: node.mac, tap: `t${i}`, memoryMiB: options.memoryMiB, cpus: accel === 'kvm' ? 2 : EMULATED_CPUS, firmware: options.firmware, accel } };
    });
    let keep = false;
    const site = await createSite(options.state, named, options.release, { ...(row.proxy ? { dhcp: BESIDE_ANOTHER } : {}), ...(row.loader ? { loader: row.loader } : {}), ...(loadersDir ? { loadersDir } : {}), ...(row.arch ? { serial: 'ttyAMA0' } : {}), ...options });
    undo.push(async () => keep || site.remove());
    const nodes = named.map((node): LabNode => {
      const vars = copyVars(options.firmware, node.name, site.dir, labKeys(options.state));
      return vars === undefined ? node : { ...node, vm: { ...node.vm, vars } };
    });
    const link = await createLink(nodes.length, site.dir);
    undo.push(() => link.close());
    const otherServer = row.proxy && (await startOtherServer(link.ns, site.dir));
    if (otherServer) undo.push(() => otherServer.close());
    const daemon = await startLabDaemon(link.ns, site);
    undo.push(() => daemon.stop());
    const forward = await forwardApi(site.socket);
    undo.push(() => forward.close());
    const vms = new Set<Vm>();
    undo.push(() => Promise.all([...vms].map((vm) => vm.kill())));
    let closing: Promise<void> | undefined;
    return {
      site,
      link,
      daemon,
      ...(otherServer ? { otherServer } : {}),
      nodes,
      apiUrl: forward.url,
      powerOn(node, ns = link.ns) {
        const vm = startVm(ns, node.vm, site.dir);
        vms.add(vm);
        return vm;
      },
      qemuLine: (node) => qemuLine(link.ns, node.vm),
      async newestBoot(node, since = 0) {
        const { status, body } = await daemon.get<{ boots?: Boot[] }>(`/api/boots?node=${encodeURIComponent(node)}&limit=1`);
        const boot = status === 200 ? body.boots?.[0] : undefined;
        return boot && boot.startedAt >= since ? boot : undefined;
      },
      close(how) {
        keep = how?.keep ?? false;
        return (closing ??= unwind());
      },
    };
  } catch (error) {
    await unwind();
    throw error;
  }
}

/** Daemons' directories (sbin) may be missing from an ordinary user's PATH; `nsenter` finds what the shell would. */
function isThere(program: string): Promise<boolean> {
  return new Promise((resolve) => execFile('sh', ['-c', 'command -v "$1"', 'sh', program], (error) => resolve(!error)));
}
