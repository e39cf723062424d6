// A DHCP packet as lines for people: the header, then one option a line. Pure.
import { ip4FromNumber } from '../addr.ts';
import { KNOWN_OPTIONS } from '../dhcp/option-table.ts';
import { messageOf, OPT, subOptionsOf } from '../dhcp/options.ts';
import { NO_IP, type Packet } from '../dhcp/packet.ts';

type Sort = 'ips' | 'number' | 'text' | 'sub' | 'hex';

/** Of those that every answer may have; the others are told by the table of options that operators may set, else in hex. */
const SORTS: Readonly<Record<number, Sort>> = {
  [OPT.subnetMask]: 'ips', [OPT.router]: 'ips', [OPT.dns]: 'ips', [OPT.broadcast]: 'ips', [OPT.serverId]: 'ips', [OPT.tftpAddresses]: 'ips',
  [OPT.leaseTime]: 'number', [OPT.renewalTime]: 'number', [OPT.rebindingTime]: 'number',
  [OPT.hostName]: 'text', [OPT.domain]: 'text', [OPT.vendorClass]: 'text', [OPT.tftpServer]: 'text', [OPT.bootFile]: 'text', [OPT.message]: 'text',
  [OPT.vendorSpecific]: 'sub', [OPT.ipxe]: 'sub',
};

const NAMES = new Map<number, string>([
  ...Object.entries(KNOWN_OPTIONS).map(([name, { code }]): [number, string] => [code, name]),
  ...Object.entries(OPT).map(([name, tag]): [number, string] => [tag, name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)]),
]);
const TYPES = new Map(Object.values(KNOWN_OPTIONS).map(({ code, type }) => [code, type]));

/** Lines without their ends, options in the order of the packet. */
export function dhcpLines(packet: Packet): string[] {
  const header = ([['yiaddr', packet.yiaddr], ['siaddr', packet.siaddr], ['ciaddr', packet.ciaddr], ['giaddr', packet.giaddr]] as const).filter(([, ip]) => ip !== NO_IP);
  return [
    ...header.map(([name, ip]) => `${name.padEnd(28)} ${ip}`),
    ...(packet.file === '' ? [] : [`${'file'.padEnd(28)} ${JSON.stringify(packet.file)}`]),
    ...[...packet.options].map(([tag, value]) => `${`${String(tag).padStart(3)} ${NAMES.get(tag) ?? ''}`.padEnd(28)} ${wordsOf(packet, tag, value)}`),
  ];
}

function wordsOf(packet: Packet, tag: number, value: Uint8Array): string {
  if (tag === OPT.messageType) return messageOf(packet.options) ?? hex(value);
  switch (SORTS[tag] ?? sortOf(tag)) {
    case 'ips':
      return value.length % 4 === 0 ? Array.from({ length: value.length / 4 }, (_, at) => ip4FromNumber(Buffer.from(value).readUInt32BE(at * 4))).join(' ') : hex(value);
    case 'number':
      return String([...value].reduce((sum, byte) => sum * 256 + byte, 0));
    case 'text':
      return JSON.stringify(Buffer.from(value).toString('latin1'));
    case 'sub':
      return `${hex(value)}  (${[...subOptionsOf(packet.options, tag)].map(([sub, inner]) => `${sub}: ${hex(inner)}`).join(', ')})`;
    default:
      return hex(value);
  }
}

function sortOf(tag: number): Sort {
  const type = TYPES.get(tag);
  return type === 'ip' || type === 'ips' ? 'ips' : type === 'text' ? 'text' : type === 'uint8' || type === 'uint16' || type === 'uint32' ? 'number' : 'hex';
}

function hex(value: Uint8Array): string {
  return Buffer.from(value).toString('hex').replace(/(..)(?=.)/g, '$1:');
}
