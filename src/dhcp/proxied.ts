// Boot fields beside another server's lease: what a proxied subnet hears on port 67, and what any subnet is asked on port 4011.
import { subnetContains, type Mac } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import type { Booter } from '../booter.ts';
import type { Counters } from './counters.ts';
import type { Desk, Exchange } from './exchange.ts';
import { stateOf } from './lease.ts';
import { messageOf } from './options.ts';
import { renderProxy } from './reply.ts';

export interface Proxied {
  onPort67(exchange: Exchange): Promise<void>;
  onPort4011(exchange: Exchange): Promise<void>;
}

export function createProxied(parts: { readonly booter: Booter; readonly nodeOf: (mac: Mac) => Node | undefined }, desk: Desk, counters: Counters): Proxied {
  const { booter } = parts;
  const { ask, record, send, silent, tell } = desk;

  /** Port 67 of a proxied subnet: boot fields for a DISCOVER; from a REQUEST to the other server we learn the machine's address. */
  async function onPort67(exchange: Exchange): Promise<void> {
    const { packet, mac, request } = exchange;
    const type = messageOf(packet.options);
    if (type === 'request') {
      const asked = stateOf(packet);
      if (!asked || !parts.nodeOf(mac) || request.asker === 'os') return void counters.silent++;
      const { boot } = await booter.ask(request);
      if (boot) await booter.leased(boot.id, asked.ip, mac);
      return void counters.silent++;
    }
    // Nothing but a machine that boots gets a packet from a proxy.
    if (type !== 'discover' || (request.asker !== 'rom' && request.asker !== 'ipxe')) return void counters.silent++;
    const wanted = await ask(exchange);
    if (!wanted) return;
    record(wanted, 'discover', request);
    const reply = renderProxy(wanted.parts, 'offer');
    if (!reply) return silent(wanted, 'there is nothing to boot for it here');
    if (!(await send(wanted, reply))) return;
    counters.proxied++;
    tell(wanted, 'dhcp: proxy offer');
    record(wanted, 'offer', 'beside another server\'s lease');
  }

  /** Port 4011: a ROM with an address asks the boot server that it chose (PXE 2.1 section 2.2.4). HTTP Boot knows no such port. */
  async function onPort4011(exchange: Exchange): Promise<void> {
    const { request, from, mac, subnet } = exchange;
    const pxe = (request.asker === 'rom' && request.firmware !== 'uefi-http') || request.asker === 'ipxe';
    if (!pxe) return void counters.silent++;
    // The answer goes back to the sender: only into the subnet.
    if (!subnetContains(subnet.subnet, from.from)) return void counters.foreign++;
    const wanted = await ask(exchange);
    if (!wanted) return;
    const reply = renderProxy(wanted.parts, 'ack');
    if (!reply) return silent(wanted, 'there is nothing to boot for it here');
    if (wanted.bootId) await booter.leased(wanted.bootId, from.from, mac);
    if (!(await send(wanted, reply))) return;
    counters.proxied++;
    tell(wanted, 'dhcp: boot server answer', from.from);
    record(wanted, 'offer', 'boot file, port 4011');
  }

  return { onPort67, onPort4011 };
}
