// The rendering table of DESIGN, in DHCP: what each decision becomes for each who asks, and where the packet goes.
import { describe, expect, it } from 'vitest';
import type { BootDecision } from '../../src/boot/decide.ts';
import type { BootRequest } from '../../src/boot/request.ts';
import { ipOf, ipsOf, messageOf, OPT, subOptionsOf, text, textOf, uint32Of, uint8 } from '../../src/dhcp/options.ts';
import { BROADCAST_FLAG, decode, encode, maxBytesFor, type Packet } from '../../src/dhcp/packet.ts';
import { destination, renderInform, renderLease, renderNak, renderProxy, shortenable, type ReplyParts } from '../../src/dhcp/reply.ts';
import { bootSetDigest, nodeNamed } from './boot-world.ts';
import { MAC, packetWith, subnet } from './dhcp-world.ts';

const SCRIPT = 'http://10.77.0.1:8080/script/52-54-00-00-00-01';
const silent: BootDecision = { kind: 'silent', why: 'unknown' };
const local: BootDecision = { kind: 'local', why: 'disk', exit: 'exit' };
const loader: BootDecision = { kind: 'loader', file: 'undionly.kpxe', via: 'tftp' };
const boot: BootDecision = { kind: 'boot', bootSet: bootSetDigest };
/** Of a ROM that no loader is for, and of everybody else. */
const hold: BootDecision = { kind: 'hold', why: 'wait', retryAfterS: 60 };
const holdRom: BootDecision = { ...hold, loader: { file: 'undionly.kpxe', via: 'tftp' } };

const rom: BootRequest = { via: 'dhcp', mac: MAC, asker: 'rom', arch: 'amd64', firmware: 'bios' };
const uefi: BootRequest = { ...rom, firmware: 'uefi' };
const ipxe: BootRequest = { ...rom, asker: 'ipxe', features: ['http', 'bzimage'] };
const parts = (decision: BootDecision, request: BootRequest, packet = packetWith([])): ReplyParts => ({ packet, request, answer: { decision, node: nodeNamed('n1') }, subnet, httpPort: 8080 });
const offer = (decision: BootDecision, request: BootRequest, packet?: Packet) => renderLease(parts(decision, request, packet), 'offer', '10.77.0.11');

/** What a client can see of booting: the file twice, the server, and options 60, 43 and 175. */
function bootView(reply: Packet | undefined) {
  if (!reply) return 'no packet';
  const { options } = reply;
  const sub = (tag: number) => Object.fromEntries([...subOptionsOf(options, tag)].map(([code, value]) => [code, value[0]]));
  if (!options.has(OPT.bootFile)) return [reply.siaddr, reply.file, options.has(OPT.tftpServer), options.has(OPT.vendorClass)].join() === '0.0.0.0,,false,false' ? 'lease only' : 'half of a boot';
  expect([reply.file, reply.siaddr, textOf(options, OPT.tftpServer)]).toEqual([textOf(options, OPT.bootFile), '10.77.0.1', '10.77.0.1']);
  return { file: reply.file, 60: textOf(options, OPT.vendorClass), 43: sub(43), 175: sub(175) };
}
const asRom = (file: string) => ({ file, 60: 'PXEClient', 43: { 6: 8 }, 175: {} });
const asUefi = (file: string) => ({ file, 60: 'PXEClient', 43: {}, 175: {} });
const asIpxe = (file: string) => ({ file, 60: undefined, 43: {}, 175: { 176: 1 } });

describe('the rendering table', () => {
  it.each<[string, BootDecision, BootRequest, unknown]>([
    ['silent: no packet to a ROM', silent, rom, 'no packet'],
    ['silent: no packet to an iPXE', silent, ipxe, 'no packet'],
    ['local: a lease without boot fields to a ROM', local, rom, 'lease only'],
    ['local: a lease without boot fields to an iPXE', local, ipxe, 'lease only'],
    ['local: a lease without boot fields to a running system', local, { ...rom, asker: 'os' }, 'lease only'],
    ['loader: a BIOS ROM is told not to look for boot servers', loader, rom, asRom('undionly.kpxe')],
    ['loader: a ROM that says no architecture counts as BIOS', loader, { via: 'dhcp', mac: MAC, asker: 'rom' }, asRom('undionly.kpxe')],
    ['loader: a UEFI ROM gets no option 43', { ...loader, file: 'snponly.efi' }, uefi, asUefi('snponly.efi')],
    ['loader: an iPXE that can too little gets the better one', loader, { ...ipxe, features: [] }, asIpxe('undionly.kpxe')],
    ['boot: an iPXE gets its script\'s URL and does not wait for a proxy', boot, ipxe, asIpxe(SCRIPT)],
    ['boot: the initrd stage gets the base URL', boot, { ...rom, asker: 'initrd' }, { file: 'http://10.77.0.1:8080', 60: undefined, 43: {}, 175: {} }],
    ['hold: a BIOS ROM gets the loader that it would get', holdRom, rom, asRom('undionly.kpxe')],
    ['hold: a UEFI ROM gets the loader that it would get', { ...hold, loader: { file: 'snponly.efi', via: 'tftp' } }, uefi, asUefi('snponly.efi')],
    ['hold: firmware that we have no loader for gets a lease', hold, { ...rom, arch: 'riscv64', firmware: 'uefi' }, 'lease only'],
    ['hold: an iPXE gets the script that says why', hold, ipxe, asIpxe(SCRIPT)],
    ['hold: an iPXE that cannot fetch by HTTP gets it by TFTP', hold, { ...ipxe, features: ['bzimage'] }, asIpxe('boot.ipxe')],
  ])('%s', (_what, decision, request, expected) => {
    expect(bootView(offer(decision, request))).toEqual(expected);
    expect(bootView(renderLease(parts(decision, request), 'ack', '10.77.0.11'))).toEqual(expected);
  });
});

describe('a lease', () => {
  it('carries address, times and the subnet\'s options', () => {
    const reply = offer(local, rom)!;
    const { options } = reply;
    expect(reply).toMatchObject({ op: 2, xid: 0x01020304, secs: 0, yiaddr: '10.77.0.11', ciaddr: '0.0.0.0', chaddr: packetWith([]).chaddr });
    expect(messageOf(options)).toBe('offer');
    expect([OPT.leaseTime, OPT.renewalTime, OPT.rebindingTime].map((tag) => uint32Of(options, tag))).toEqual([3600, 1800, 3150]);
    expect([OPT.serverId, OPT.subnetMask, OPT.router, OPT.broadcast].map((tag) => ipOf(options, tag))).toEqual(['10.77.0.1', '255.255.255.0', '10.77.0.254', '10.77.0.255']);
    expect(ipsOf(options, OPT.dns)).toEqual(['10.77.0.53', '10.77.0.54']);
    expect([textOf(options, OPT.hostName), textOf(options, OPT.domain)]).toEqual(['n1', 'rack.test']);
  });

  it('leaves out what the subnet does not have', () => {
    const { router: _router, domain: _domain, ...bare } = subnet;
    const { options } = renderLease({ ...parts(local, rom), subnet: { ...bare, dns: [] } }, 'offer', '10.77.0.11')!;
    expect([OPT.router, OPT.dns, OPT.domain].filter((tag) => options.has(tag))).toEqual([]);
  });

  it('an ACK keeps ciaddr, an OFFER does not', () => {
    const renewing = parts(local, rom, packetWith([], { ciaddr: '10.77.0.11' }));
    expect(renderLease(renewing, 'ack', '10.77.0.11')!.ciaddr).toBe('10.77.0.11');
    expect(renderLease(renewing, 'offer', '10.77.0.11')!.ciaddr).toBe('0.0.0.0');
  });

  it('client id, UUID and relay information go back as they came, the last one last on the wire', () => {
    const sent = [[OPT.relayAgent, Uint8Array.of(1, 2, 0, 7)], [OPT.clientUuid, new Uint8Array(17)], [OPT.clientId, Uint8Array.of(1, 2)]] as const;
    const reply = offer(boot, ipxe, packetWith(sent, { giaddr: '10.77.0.2' }))!;
    for (const [tag, value] of sent) expect(reply.options.get(tag)).toEqual(value);
    const bytes = encode(reply) as Uint8Array;
    expect([...decode(bytes).options.keys()].at(-1)).toBe(OPT.relayAgent);
    expect(reply.giaddr).toBe('10.77.0.2');
  });

  it('a machine that sent none of them gets none', () => {
    const { options } = offer(boot, ipxe)!;
    expect([OPT.relayAgent, OPT.clientUuid, OPT.clientId].filter((tag) => options.has(tag))).toEqual([]);
  });

  it('a file name longer than the BOOTP field stands in option 67 alone', () => {
    const file = 'f'.repeat(128);
    const reply = offer({ ...loader, file }, rom)!;
    expect([reply.file, textOf(reply.options, OPT.bootFile)]).toEqual(['', file]);
  });

  it('fits a client that takes no more than it must', () => {
    const request = packetWith([[OPT.clientUuid, new Uint8Array(17)]]);
    expect(encode(offer(boot, ipxe, request)!, maxBytesFor(request))).toBeInstanceOf(Uint8Array);
  });
});

describe('other replies', () => {
  it('INFORM is acknowledged without address and times', () => {
    const reply = renderInform(parts(local, { ...rom, asker: 'os' }, packetWith([], { ciaddr: '10.77.0.11' })))!;
    expect([messageOf(reply.options), reply.yiaddr, reply.ciaddr, reply.options.has(OPT.leaseTime), reply.options.has(OPT.subnetMask)]).toEqual(['ack', '0.0.0.0', '10.77.0.11', false, true]);
  });

  it('INFORM of a machine that is not ours gets no packet', () => {
    expect(renderInform(parts(silent, rom))).toBeUndefined();
  });

  it('NAK carries the reason and nothing to use', () => {
    const reply = renderNak(packetWith([[OPT.clientId, uint8(1)]], { ciaddr: '10.77.0.11' }), subnet, 'taken');
    expect([...reply.options.keys()]).toEqual([OPT.messageType, OPT.serverId, OPT.message, OPT.clientId]);
    expect([messageOf(reply.options), reply.ciaddr, reply.yiaddr, textOf(reply.options, OPT.message)]).toEqual(['nak', '0.0.0.0', '0.0.0.0', 'taken']);
  });

  it('a relayed NAK asks the relay to broadcast', () => {
    expect(renderNak(packetWith([], { giaddr: '10.77.0.2' }), subnet, 'taken').flags & BROADCAST_FLAG).toBe(BROADCAST_FLAG);
    expect(renderNak(packetWith([]), subnet, 'taken').flags).toBe(0);
  });
});

describe('beside another server\'s lease', () => {
  const proxy = (decision: BootDecision, request: BootRequest, type: 'offer' | 'ack') => renderProxy({ ...parts(decision, request), subnet: { ...subnet, mode: 'proxy' } }, type);

  it.each<[string, BootDecision, BootRequest, 'offer' | 'ack', unknown]>([
    ['a BIOS ROM takes the file from the offer', loader, rom, 'offer', asRom('undionly.kpxe')],
    ['and from port 4011', loader, rom, 'ack', asRom('undionly.kpxe')],
    ['a UEFI ROM from port 4011', { ...loader, file: 'snponly.efi' }, uefi, 'ack', asUefi('snponly.efi')],
    ['an iPXE is told that this is the proxy', boot, ipxe, 'offer', { ...asIpxe(SCRIPT), 60: 'PXEClient' }],
    ['a hold has the loader that the ROM would get', holdRom, rom, 'offer', asRom('undionly.kpxe')],
    ['local: no packet', local, rom, 'offer', 'no packet'],
    ['silent: no packet', silent, rom, 'offer', 'no packet'],
    ['firmware without a loader: no packet', hold, { ...rom, arch: 'riscv64', firmware: 'uefi' }, 'offer', 'no packet'],
  ])('%s', (_what, decision, request, type, expected) => {
    const reply = proxy(decision, request, type);
    expect(bootView(reply)).toEqual(expected);
    if (reply) expect([reply.yiaddr, reply.options.has(OPT.leaseTime), reply.options.has(OPT.subnetMask)]).toEqual(['0.0.0.0', false, false]);
  });

  it('a subnet that is ours tells mask and router on port 4011, too, which an iPXE may take for its lease', () => {
    const [offer, ack] = (['offer', 'ack'] as const).map((type) => renderProxy(parts({ ...loader, file: 'snponly.efi' }, uefi), type)!);
    expect([OPT.subnetMask, OPT.router].map((tag) => [offer!.options.has(tag), ack!.options.has(tag)])).toEqual([[false, true], [false, true]]);
    expect([ack!.yiaddr, ack!.options.has(OPT.leaseTime)]).toEqual(['0.0.0.0', false]);
  });

  it('a UEFI ROM\'s offer names the boot server and no file (TRAPS 1.1)', () => {
    const reply = proxy({ ...loader, file: 'snponly.efi' }, uefi, 'offer')!;
    expect([reply.siaddr, reply.file, textOf(reply.options, OPT.vendorClass)]).toEqual(['10.77.0.1', '', 'PXEClient']);
    expect([OPT.bootFile, OPT.tftpServer, OPT.vendorSpecific].filter((tag) => reply.options.has(tag))).toEqual([]);
  });
});

describe('a reply that is too long', () => {
  it('loses what its client wants least, and never what it boots with', () => {
    const request = packetWith([[OPT.parameterList, Uint8Array.of(OPT.domain, OPT.dns, OPT.broadcast)]]);
    const { packet, optional } = shortenable(offer(loader, rom, request)!, request);
    expect(optional.slice(0, 3)).toEqual([OPT.domain, OPT.dns, OPT.broadcast]);
    expect([...packet.options.keys()].slice(-optional.length)).toEqual(optional);
    for (const tag of [OPT.messageType, OPT.leaseTime, OPT.bootFile, OPT.subnetMask, OPT.router]) expect(optional).not.toContain(tag);
  });
});

describe('destination (RFC 2131 section 4.1)', () => {
  const nak = (packet: Packet) => renderNak(packet, subnet, 'no');
  const ack = (packet: Packet) => renderLease(parts(local, rom, packet), 'ack', '10.77.0.11')!;
  const plain = packetWith([[OPT.hostName, text('x')]]);
  it.each<[string, Packet, (packet: Packet) => Packet, string, number]>([
    ['through a relay: to the relay\'s server port', packetWith([], { giaddr: '10.77.0.2', ciaddr: '10.77.0.11' }), ack, '10.77.0.2', 67],
    ['a NAK through a relay as well', packetWith([], { giaddr: '10.77.0.2' }), nak, '10.77.0.2', 67],
    ['a machine that has its address: there', packetWith([], { ciaddr: '10.77.0.11' }), ack, '10.77.0.11', 68],
    ['a NAK is broadcast: that address is the wrong one', packetWith([], { ciaddr: '10.77.0.11' }), nak, '255.255.255.255', 68],
    ['a machine without an address: broadcast', plain, ack, '255.255.255.255', 68],
    ['and with the broadcast flag', { ...plain, flags: BROADCAST_FLAG }, ack, '255.255.255.255', 68],
  ])('%s', (_what, packet, render, address, port) => {
    expect(destination(packet, render(packet), { link: 'lan0', port: 67, from: '0.0.0.0', fromPort: 68 })).toEqual({ address, port });
  });

  it('port 4011: back to where it came from', () => {
    expect(destination(plain, ack(plain), { link: 'lan0', port: 4011, from: '10.77.0.55', fromPort: 4011 })).toEqual({ address: '10.77.0.55', port: 4011 });
  });

  it('an INFORM that came through a relay: to the machine itself (RFC 2131 section 4.3.5)', () => {
    const inform = packetWith([[OPT.messageType, uint8(8)]], { giaddr: '10.77.0.2', ciaddr: '10.77.0.11' });
    expect(destination(inform, ack(inform), { link: 'lan0', port: 67, from: '10.77.0.2', fromPort: 67 })).toEqual({ address: '10.77.0.11', port: 68 });
  });
});
