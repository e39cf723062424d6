// A packet as readable text, for the golden files.
import { identify } from '../../src/dhcp/client.ts';
import { ipsOf, messageOf, OPT, subOptionsOf, textOf, uint16sOf, uint32Of, userClassesOf, uuidOf, type Options } from '../../src/dhcp/options.ts';
import { macOf, type Packet } from '../../src/dhcp/packet.ts';

const NAMES = new Map<number, string>(Object.entries(OPT).map(([name, tag]) => [tag, name]));

const READABLE: Readonly<Record<number, (options: Options, tag: number) => string>> = {
  [OPT.messageType]: (options) => messageOf(options) ?? '?',
  [OPT.vendorClass]: (options, tag) => JSON.stringify(textOf(options, tag)),
  [OPT.bootFile]: (options, tag) => JSON.stringify(textOf(options, tag)),
  [OPT.userClass]: (options) => JSON.stringify(userClassesOf(options)),
  [OPT.clientArch]: (options, tag) => uint16sOf(options, tag).join(' '),
  [OPT.maxSize]: (options, tag) => uint16sOf(options, tag).join(' '),
  [OPT.clientUuid]: (options) => uuidOf(options) ?? 'not set',
  [OPT.parameterList]: (options, tag) => [...options.get(tag)!].join(' '),
  [OPT.ipxe]: (options, tag) => [...subOptionsOf(options, tag)].map(([sub, value]) => `${sub}=${hex(value)}`).join(' '),
  ...Object.fromEntries([OPT.subnetMask, OPT.router, OPT.broadcast, OPT.requestedIp, OPT.serverId].map((tag) => [tag, (options: Options) => ipsOf(options, tag).join(' ')])),
  ...Object.fromEntries([OPT.leaseTime, OPT.renewalTime, OPT.rebindingTime].map((tag) => [tag, (options: Options) => `${uint32Of(options, tag)} s`])),
};

export function dump(packet: Packet, bytes: number): string {
  const { options, chaddr: _chaddr, ...header } = packet;
  return [
    `${bytes} bytes`,
    ...Object.entries({ ...header, xid: packet.xid.toString(16), chaddr: macOf(packet) }).map(([name, value]) => `${name} ${value}`.trimEnd()),
    ...[...options].map(([tag, value]) => `option ${tag} ${NAMES.get(tag) ?? '?'}: ${READABLE[tag]?.(options, tag) ?? hex(value)}`),
    ...(packet.op === 1 ? ['', `who asks: ${JSON.stringify(identify(packet), null, 1)}`] : []),
    '',
  ].join('\n');
}

function hex(value: Uint8Array): string {
  return Buffer.from(value).toString('hex');
}
