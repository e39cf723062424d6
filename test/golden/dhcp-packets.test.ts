// Packets of real firmware and clients: read as their golden text says, written back unchanged, and as the `dhcp` package reads them where it is right.
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { ipsOf, OPT, textOf, uint16Of, uint32Of, uint8Of, type Options } from '../../src/dhcp/options.ts';
import { decode, encode, macOf } from '../../src/dhcp/packet.ts';
import { dump } from './dhcp-dump.ts';

const DIR = new URL('dhcp/', import.meta.url).pathname;
const captures = readdirSync(DIR).filter((file) => file.endsWith('.hex')).map((file) => {
  const bytes = Uint8Array.from(Buffer.from(readFileSync(join(DIR, file), 'utf8').replace(/\s/g, ''), 'hex'));
  return { name: file.slice(0, -4), bytes, packet: decode(bytes) };
});

describe.each(captures)('$name', ({ name, bytes, packet }) => {
  it('reads as its golden text', async () => {
    await expect(dump(packet, bytes.length)).toMatchFileSnapshot(join(DIR, `${name}.txt`));
  });

  it('comes out byte for byte as it came in', () => {
    const again = encode(packet);
    // What is left beyond our length is the sender's own padding.
    expect(Buffer.from(again as Uint8Array).toString('hex').replace(/(00)+$/, '')).toBe(Buffer.from(bytes).toString('hex').replace(/(00)+$/, ''));
  });
});

interface TheirPacket {
  readonly [field: string]: unknown;
  readonly options: Readonly<Record<number, unknown>>;
}
const theirs = createRequire(import.meta.url)('dhcp/lib/protocol.js') as { parse(bytes: Buffer): TheirPacket };

/** Where the `dhcp` package is right: its form of a value, from ours. */
const AGREE: Readonly<Record<number, (options: Options, tag: number) => unknown>> = {
  [OPT.subnetMask]: (options, tag) => ipsOf(options, tag)[0],
  [OPT.router]: ipsOf,
  [OPT.broadcast]: (options, tag) => ipsOf(options, tag)[0],
  [OPT.requestedIp]: (options, tag) => ipsOf(options, tag)[0],
  [OPT.leaseTime]: uint32Of,
  [OPT.messageType]: uint8Of,
  [OPT.serverId]: (options, tag) => ipsOf(options, tag)[0],
  [OPT.parameterList]: (options, tag) => [...options.get(tag)!],
  [OPT.maxSize]: uint16Of,
  [OPT.renewalTime]: uint32Of,
  [OPT.rebindingTime]: uint32Of,
  [OPT.vendorClass]: textOf,
  [OPT.bootFile]: textOf,
};

/** Where it is wrong, each with how; docs/decisions/dhcp-packages.md has the same list. */
const WRONG: readonly [tag: number, how: string, reads?: string][] = [
  [OPT.clientId, 'read as text up to the first NUL, so that an Ethernet client id loses its end', '\u0001RT'],
  [OPT.userClass, 'dropped'],
  [OPT.relayAgent, 'dropped'],
  [OPT.clientArch, 'dropped'],
  [OPT.clientNdi, 'dropped'],
  [OPT.clientUuid, 'dropped'],
  [OPT.ipxe, 'dropped'],
];

describe('the dhcp package reads the captures', () => {
  // It prints a line for each option that it does not know.
  beforeAll(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined));
  afterAll(() => void vi.restoreAllMocks());

  it.each(captures)('$name as we do, where it is right', ({ bytes, packet }) => {
    const their = theirs.parse(Buffer.from(bytes));
    for (const field of ['op', 'htype', 'hlen', 'hops', 'xid', 'secs', 'flags', 'ciaddr', 'yiaddr', 'siaddr', 'giaddr', 'sname', 'file'] as const) {
      expect(their[field], field).toEqual(packet[field]);
    }
    expect(String(their.chaddr).toLowerCase().replaceAll('-', ':')).toBe(macOf(packet));
    const known = [...packet.options.keys()].filter((tag) => !WRONG.some(([wrong]) => wrong === tag));
    expect(known.filter((tag) => !AGREE[tag]), 'options that this test does not compare').toEqual([]);
    expect(Object.fromEntries(known.map((tag) => [tag, their.options[tag]]))).toEqual(Object.fromEntries(known.map((tag) => [tag, AGREE[tag]!(packet.options, tag)])));
  });

  it.each(WRONG)('option %i is %s', (tag, _how, reads) => {
    const value = tag === OPT.relayAgent ? Uint8Array.of(1, 2, 3, 4) : captures.find(({ packet }) => packet.options.has(tag))!.packet.options.get(tag)!;
    const bytes = encode({ ...captures[0]!.packet, options: new Map([[tag, value]]) }) as Uint8Array;
    expect(decode(bytes).options.get(tag)).toEqual(value);
    expect(theirs.parse(Buffer.from(bytes)).options[tag]).toBe(reads);
  });

  it('a pad makes it skip the tag behind it: here it fails on what follows', () => {
    const bytes = encode({ ...captures[0]!.packet, options: new Map([[OPT.messageType, Uint8Array.of(1)]]) }) as Uint8Array;
    const padded = Uint8Array.of(...bytes.subarray(0, 240), 0, 53, 1, 1, 255);
    expect(decode(padded).options.get(OPT.messageType)).toEqual(Uint8Array.of(1));
    expect(() => theirs.parse(Buffer.from(padded))).toThrow(RangeError);
  });
});
