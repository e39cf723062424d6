// What broke other servers, as packets: each is read, asked about and answered without harm. The server's side of it is tested with the server.
import { describe, expect, it } from 'vitest';
import { identify } from '../../src/dhcp/client.ts';
import { fqdnOf, fqdnReply, hostNameOf } from '../../src/dhcp/names.ts';
import { message, messageOf, OPT, relayLinkOf, subOptionsOf, text, type Options } from '../../src/dhcp/options.ts';
import { decode, DhcpDecodeError, encode, macOf, maxBytesFor, type Packet } from '../../src/dhcp/packet.ts';
import { dhcpSeeds } from '../corpus/packets.ts';
import { packetWith } from './dhcp-world.ts';

const seeds = new Map(dhcpSeeds().map(({ name, bytes }) => [name, bytes]));
const packet = (name: string) => decode(seeds.get(name)!);
const answer = (to: Packet, options: Options, maxBytes = maxBytesFor(to)) => encode({ ...to, op: 2, sname: '', file: '', options }, maxBytes);
const header = decode(seeds.get('length-over-the-edge')!);

describe('Kea', () => {
  it('a client id of 700 bytes is read whole; its echo (RFC 6842) does not fit the answer, so there is none', () => {
    const request = packet('client-id-of-700-bytes');
    const id = request.options.get(OPT.clientId)!;
    expect(id).toHaveLength(700);
    expect(answer(request, new Map([[OPT.messageType, message('offer')], [OPT.clientId, id]]))).toMatchObject({ kind: 'unsendable' });
    const longer = answer(request, new Map([[OPT.messageType, message('offer')], [OPT.clientId, id]]), 1472) as Uint8Array;
    expect(decode(longer).options.get(OPT.clientId)).toEqual(id);
  });

  it('CVE-2025-11232: a host name of which the sanitiser leaves nothing is no host name, in option 12 and 81', () => {
    const { options } = packet('host-name-of-bad-characters-only');
    expect([options.has(OPT.hostName), options.has(OPT.fqdn), hostNameOf(options)]).toEqual([true, true, undefined]);
  });

  it.each([['fqdn-without-flags', undefined], ['fqdn-pointer-to-itself', undefined], ['fqdn-of-too-many-labels', undefined], ['fqdn-wire', 'Client.example'], ['fqdn-ascii', 'client.example']])('option 81, %s: %s', (name, read) => {
    const { options } = packet(name);
    expect(fqdnOf(options)?.name).toBe(read);
    const reply = fqdnReply(options.get(OPT.fqdn)!, 'n1.rack.example');
    expect(reply === undefined || reply.length < 32).toBe(true);
  });

  it.each(['renewal-from-nowhere', 'inform-from-nowhere'])('CVE-2025-40779, unicast with no subnet: %s is only a packet with an address', (name) => {
    const request = packet(name);
    expect([request.ciaddr, identify(request).ip, messageOf(request.options)]).toEqual(['192.0.2.7', '192.0.2.7', name.startsWith('renewal') ? 'request' : 'inform']);
  });

  it('an empty parameter list and a client id of one byte are values', () => {
    expect(packet('inform-from-nowhere').options.get(OPT.parameterList)).toHaveLength(0);
    expect(packet('client-id-of-one-byte').options.get(OPT.clientId)).toHaveLength(1);
  });
});

describe('dnsmasq', () => {
  it('CVE-2017-14491, a name that grows beyond its buffer: labels end at 255 bytes, pointers are not followed', () => {
    const labels = (count: number) => Uint8Array.of(4, 0, 0, ...Array.from({ length: count }, () => [1, 97]).flat());
    expect(fqdnOf(new Map([[OPT.fqdn, labels(30_000)]]))).toBeUndefined();
    expect(fqdnOf(new Map([[OPT.fqdn, Uint8Array.of(4, 0, 0, 1, 97, 0xc0, 3)]]))).toBeUndefined();
  });

  it('CVE-2017-14492, text longer than its field: unterminated sname and file end with their field', () => {
    const { sname, file } = packet('unterminated-text-fields');
    expect([sname, file]).toEqual(['A'.repeat(64), 'B'.repeat(128)]);
  });

  it.each([17, 64, 255])('CVE-2017-14493, a hardware address longer than its field: hlen %i is refused', (hlen) => {
    const bytes = seeds.get('relayed-discover')!.slice();
    bytes[2] = hlen;
    expect(() => decode(bytes)).toThrow(DhcpDecodeError);
  });

  it('CVE-2017-14493, 16 bytes of another hardware are read, and are no MAC', () => {
    expect([packet('address-of-16-bytes').hlen, macOf(packet('address-of-16-bytes'))]).toEqual([16, undefined]);
  });

  it('CVE-2017-14494, a relay\'s length that reaches beyond the packet: nothing but what came in is sent back', () => {
    const { options } = packet('relay-suboptions-that-run-over');
    expect([relayLinkOf(options), [...subOptionsOf(options, OPT.relayAgent)]]).toEqual([undefined, []]);
    const reply = answer(header, new Map([[OPT.relayAgent, options.get(OPT.relayAgent)!]])) as Uint8Array;
    expect([...decode(reply).options]).toEqual([[OPT.relayAgent, Uint8Array.of(5, 255, 10, 88)]]);
    expect(decode(seeds.get('length-over-the-edge')!).options.has(OPT.hostName)).toBe(false);
  });

  it('CVE-2017-14495, memory by many small pieces: 65,000 bytes of parts make one value of their length', () => {
    const parts = new Uint8Array(65_000);
    for (let at = 0; at + 3 <= parts.length; at += 3) parts.set([61, 1, 7], at);
    const bytes = Uint8Array.of(...seeds.get('only-pads')!.subarray(0, 240), ...parts);
    expect(decode(bytes).options.get(OPT.clientId)).toEqual(new Uint8Array(21_666).fill(7));
  });

  it.each([53, 55, 57, 60, 61, 77, 81, 82, 93, 97, 175])('CVE-2017-14496, a length below its header: an empty option %i is not sent', (tag) => {
    const request = packetWith([[tag, new Uint8Array()]]);
    expect(identify(request)).toStrictEqual({ via: 'dhcp', asker: 'os', mac: '52:54:00:00:00:01' });
    expect([messageOf(request.options), hostNameOf(request.options), relayLinkOf(request.options), fqdnOf(request.options), maxBytesFor(request)]).toEqual([undefined, undefined, undefined, undefined, 548]);
  });
});

describe('what ends up on a terminal', () => {
  it('a vendor class of escapes is printable when it leaves the codec', () => {
    expect(identify(packet('vendor-class-of-escapes'))).toMatchObject({ asker: 'rom', vendorClass: 'PXEClient:Arch:00000:?]0;owned??31m' });
  });

  it('a client that overloads the fields, and overloads again inside them, is read once', () => {
    expect(packet('overload-in-the-overloaded-field')).toMatchObject({ file: '', sname: '\f\u0002no' });
    expect(packet('overload-3-with-a-split-option').options.get(OPT.bootFile)).toEqual(text('boot.ipxe'));
  });
});
