// The lab's boot LAN: one bridge in a namespace of its own, a tap for each machine, and the router advertisement that old ROMs wait for.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Ip4 } from '../addr.ts';
import { AppError } from '../errors.ts';
import { dieWithUs, ended, killInside, stop } from './child.ts';
import { createNamespace, type Namespace } from './network.ts';

export const LAB_SUBNET = '10.77.0.0/24';
export const LAB_SERVER_IP: Ip4 = '10.77.0.1';
export const LAB_POOL = '10.77.0.100-10.77.0.199';
/** The card of ours on the boot LAN. */
export const LAB_BRIDGE = 'br0';

export interface Link {
  readonly ns: Namespace;
  /** Names of the tap devices, one a machine. */
  readonly taps: readonly string[];
  close(): Promise<void>;
}

/** The address of the lab's n-th machine, counted from 1. */
export function labIp(n: number): Ip4 {
  return `10.77.0.${10 + n}`;
}

/**
 * No link of the machine itself is ever put in: the namespace has lo, the bridge and its taps, so nothing that happens here can reach a real
 * network. `dir` takes dnsmasq's lease file. LAB_UNAVAILABLE when the machine does not allow it.
 */
export async function createLink(machines: number, dir: string): Promise<Link> {
  return layLan(await createNamespace(), { bridge: LAB_BRIDGE, address: `${LAB_SERVER_IP}/24`, machines }, dir);
}

/** A boot LAN in this namespace, which goes with it: also when it cannot be laid. `address` is the bridge's own, with its prefix. */
export async function layLan(ns: Namespace, { bridge, address, machines }: { readonly bridge: string; readonly address: string; readonly machines: number }, dir: string): Promise<Link> {
  let advertiser: ReturnType<typeof spawn> | undefined;
  const close = async () => {
    if (advertiser) await stop(advertiser);
    await killInside(ns.pid);
    await ns.close();
  };
  const taps = Array.from({ length: machines }, (_, i) => `t${i}`);
  try {
    // mcast_snooping would hold router advertisements back until a querier speaks, and there is none.
    await ns.must(['ip', 'link', 'add', bridge, 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0']);
    // A bridge takes the lowest of its ports' addresses unless it has its own, and its link-local address would change under the ROM's feet.
    await ns.must(['ip', 'link', 'set', bridge, 'address', '52:54:00:4c:42:fe']);
    await ns.must(['ip', 'address', 'add', address, 'dev', bridge]);
    await ns.must(['ip', 'address', 'add', 'fd77::1/64', 'dev', bridge, 'nodad']);
    await ns.must(['ip', 'link', 'set', bridge, 'up']);
    for (const tap of taps) {
      await ns.must(['ip', 'tuntap', 'add', 'dev', tap, 'mode', 'tap']);
      await ns.must(['ip', 'link', 'set', tap, 'master', bridge, 'up']);
    }
    const [program, ...args] = ns.wrap(dieWithUs(['dnsmasq', ...advertiserArgs(bridge, join(dir, `advertiser-${ns.pid}.leases`))]));
    advertiser = spawn(program!, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const early = await Promise.race([ended(advertiser), new Promise<undefined>((resolve) => setTimeout(resolve, 200, undefined))]);
    if (early !== undefined) throw new AppError('LAB_UNAVAILABLE', `dnsmasq, which sends the lab's router advertisements, ended: ${early}`, 'is dnsmasq-base installed?');
    return { ns, taps, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Only router advertisements: no DNS (port 0), no DHCPv4 (that is rackseed's), no default route (lifetime 0). Without one, QEMU's
 * iPXE ROM of 2019 waits 13 s after its DHCP is done (TRAPS 4). It keeps its user: a user namespace
 * has no other to change to (EPERM).
 */
function advertiserArgs(bridge: string, leases: string): string[] {
  return ['--keep-in-foreground', '--log-facility=-', '--quiet-ra', '--conf-file=/dev/null', '--no-hosts', '--no-resolv', '--pid-file=', `--dhcp-leasefile=${leases}`,
    '--user=', '--group=', '--port=0', `--interface=${bridge}`, '--enable-ra', `--ra-param=${bridge},4,0`, '--dhcp-range=fd77::,ra-only'];
}
