// The TFTP part of the daemon: on which addresses it listens and whose peers it answers, from the settings and what DHCP serves.
import type { Ip4, Ip6 } from '../addr.ts';
import type { Node } from '../boot/node.ts';
import type { Serve } from '../boot/request.ts';
import type { TftpSettings } from '../config/settings.ts';
import { optionBytes, type ExtraOptions } from '../dhcp/option-values.ts';
import { OPT } from '../dhcp/options.ts';
import { AppError } from '../errors.ts';
import type { ServedPlace, TftpPlaces } from '../tftp/sockets.ts';
import type { DhcpPlan } from './dhcp.ts';

/** Headers before the block in one packet: IP, UDP 8, TFTP 4. */
const HEADERS_IP4 = 20 + 8 + 4;
const HEADERS_IP6 = 40 + 8 + 4;

/**
 * `serve`: whom a listening address with a prefix of its own serves, outside of the subnets of DHCP. CONFIG_INVALID for an address whose peers would
 * all be met with silence.
 */
export function tftpPlaces({ listen, blockSize }: TftpSettings, plan: Pick<DhcpPlan, 'subnets' | 'serverIps' | 'links'>, serve: Serve, file: string): TftpPlaces {
  const written = (listen ?? []).flatMap(({ subnet }): ServedPlace[] => (subnet ? [{ subnet, serve, blockSize: 'network6' in subnet ? blockSize - (HEADERS_IP6 - HEADERS_IP4) : blockSize }] : []));
  const mute = listen?.find(({ subnet }) => subnet === undefined && plan.subnets.length === 0);
  if (mute) throw new AppError('CONFIG_INVALID', `${file}: tftp.listen has ${mute.ip}, and no subnet is served whose machines could be answered there`, `write its prefix too, ${mute.ip}/24; or serve a subnet by DHCP`);
  return {
    listen: listen?.map(({ ip }) => ip) ?? plan.serverIps,
    served: [...plan.subnets.map((one): ServedPlace => ({ subnet: one.subnet, serve: one.serve, blockSize: Math.min(blockSize, mtuOf(one.options) - HEADERS_IP4) })), ...written],
    links: plan.links,
  };
}

/** What the path to a node carries in one block, by the `interface-mtu` that it is told as a node, its own or its profile's; else there is no bound but its subnet's. */
export function blockSizeFor({ dhcpOptions }: Node, peer: Ip4 | Ip6): number {
  return mtuOf(dhcpOptions ?? {}) - (peer.includes(':') ? HEADERS_IP6 : HEADERS_IP4);
}

/** What machines are told by option 26; at least what every client can take, the 512 of RFC 1350. */
function mtuOf(options: ExtraOptions): number {
  const option = options[OPT.interfaceMtu];
  const [high, low] = option ? optionBytes(option) : [];
  return high === undefined || low === undefined ? Infinity : Math.max((high << 8) | low, 512 + HEADERS_IP4);
}
