// Another host on the lab's link, in a namespace of its own, and dnsmasq there as the DHCP server of a LAN that is not ours.
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { dieWithUs, ended, stop } from './child.ts';
import { LAB_BRIDGE } from './link.ts';
import { cable, createNamespace, type Namespace } from './network.ts';

export const NEIGHBOUR_IP = '10.77.0.2';

/** A host at NEIGHBOUR_IP, on the far end of a cable. It goes by its `close`. */
export async function createNeighbour(lan: Namespace): Promise<Namespace> {
  const ns = await createNamespace(lan);
  try {
    await cable({ ns: lan, name: 'port0' }, { ns, name: 'eth0' });
    await lan.must(['ip', 'link', 'set', 'port0', 'master', LAB_BRIDGE]);
    await ns.must(['ip', 'address', 'add', `${NEIGHBOUR_IP}/24`, 'dev', 'eth0']);
    return ns;
  } catch (error) {
    await ns.close();
    throw error;
  }
}

export interface OtherServer {
  /** Who has its leases, as `[MAC, address]`. */
  leases(): Promise<string[][]>;
  close(): Promise<void>;
}

/** dnsmasq on a neighbour, giving addresses from 10.77.0.100 on and nothing of boots. `dir` takes its lease file. LAB_UNAVAILABLE when it ends. */
export async function startOtherServer(lan: Namespace, dir: string): Promise<OtherServer> {
  const ns = await createNeighbour(lan);
  const file = join(dir, 'dnsmasq.leases');
  const child = ns.spawn(
    dieWithUs(['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--port=0', '--user=', '--group=', '--pid-file=', `--dhcp-leasefile=${file}`, '--dhcp-authoritative', '--dhcp-range=10.77.0.100,10.77.0.199']),
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const close = async () => {
    await stop(child);
    await ns.close();
  };
  // It logs its range before it listens to anybody's DISCOVER, within milliseconds; a machine needs seconds for its first.
  const early = await Promise.race([ended(child), once(child.stderr!, 'data').then(() => undefined)]);
  if (early !== undefined) {
    await close();
    throw new AppError('LAB_UNAVAILABLE', `dnsmasq, the other DHCP server of this lab, ended: ${early}`, 'is dnsmasq-base installed?');
  }
  return {
    async leases() {
      return (await readFile(file, 'utf8').catch(() => '')).split('\n').filter((line) => line !== '').map((line) => line.split(' ').slice(1, 3));
    },
    close,
  };
}
