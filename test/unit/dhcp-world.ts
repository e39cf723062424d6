// A small world for tests of the DHCP rules: packets of machine 52:54:00:00:00:01, and one subnet.
import { parseRange, parseSubnet } from '../../src/addr.ts';
import type { ServedSubnet } from '../../src/dhcp/subnet.ts';
import { NO_IP, type Packet } from '../../src/dhcp/packet.ts';

export const MAC = '52:54:00:00:00:01';

export function packetWith(options: Iterable<readonly [number, Uint8Array]>, more: Partial<Packet> = {}): Packet {
  return {
    op: 1,
    htype: 1,
    hlen: 6,
    hops: 0,
    xid: 0x01020304,
    secs: 4,
    flags: 0,
    ciaddr: NO_IP,
    yiaddr: NO_IP,
    siaddr: NO_IP,
    giaddr: NO_IP,
    chaddr: Uint8Array.of(0x52, 0x54, 0, 0, 0, 1, ...new Uint8Array(10)),
    sname: '',
    file: '',
    options: new Map(options),
    ...more,
  };
}

export const subnet: ServedSubnet = {
  subnet: parseSubnet('10.77.0.0/24')!,
  mode: 'full',
  serve: 'known',
  serverIp: '10.77.0.1',
  link: 'lan0',
  router: '10.77.0.254',
  pools: [{ ranges: [parseRange('10.77.0.100-10.77.0.103')!] }],
  dns: ['10.77.0.53', '10.77.0.54'],
  domain: 'rack.test',
  leaseSeconds: 3600,
  options: {},
  conflictCheck: false,
};
