// The PXE matrix of pxe-matrix.ts, cell by cell: a known node's packet goes in, what is sent is compared with what the table says.
import { describe, expect, it } from 'vitest';
import { messageOf, OPT, subOptions, text, textOf, uint16s, uint8, uuid } from '../../src/dhcp/options.ts';
import type { Sent } from '../unit/dhcp-harness.ts';
import { clientOf, lan, nodeOf, server, worldWith, type Option } from './clients.ts';
import { MATRIX, type Cell, type Expected, type MatrixAsker, type MatrixRow } from './pxe-matrix.ts';

const UUID = uuid('00112233-4455-6677-8899-aabbccddeeff');
/** What firmware of this type sends; an iPXE keeps the vendor class of PXE. */
function said(arch: number, asker: MatrixAsker): Option[] {
  const type = String(arch).padStart(5, '0');
  const named = asker === 'HTTPClient' ? `HTTPClient:Arch:${type}:UNDI:003001` : `PXEClient:Arch:${type}:UNDI:003016`;
  const own: Option[] = [[OPT.vendorClass, text(named)], [OPT.clientArch, uint16s(arch)], [OPT.clientNdi, Uint8Array.of(1, 3, 16)], [OPT.clientUuid, UUID]];
  return asker === 'iPXE' ? [...own, [OPT.userClass, text('iPXE')], [OPT.ipxe, subOptions([[19, uint8(1)], [arch === 0 ? 24 : 36, uint8(1)]])]] : own;
}

function seen(sent: Sent | undefined): Expected | undefined {
  if (!sent) return undefined;
  const { packet, to } = sent;
  const { options } = packet;
  const hex = (tag: number) => (options.has(tag) ? { [tag]: Buffer.from(options.get(tag)!).toString('hex') } : {});
  const words = (tag: number) => (options.has(tag) ? { [tag]: textOf(options, tag) } : {});
  expect(options.get(OPT.clientUuid), 'option 97 comes back as it was sent (RFC 4578 2.3)').toEqual(UUID);
  const message = messageOf(options) as Expected['message'];
  return { message, yiaddr: packet.yiaddr, siaddr: packet.siaddr, file: packet.file, ...hex(43), ...words(60), ...words(66), ...words(67), ...hex(175), to: `${to.address}:${to.port}` };
}

const full = { subnets: [lan], nodes: [nodeOf(1, { ip: '10.77.0.11' })] };
const proxy = { ...full, subnets: [{ ...lan, mode: 'proxy' as const, pools: [] }] };
const name = (arch: number) => `0x${arch.toString(16).padStart(2, '0')}`;
const gist = (cell: Cell) => ('silent' in cell ? `silent: ${cell.silent}` : `${cell.message} ${cell[67] ?? 'without a file'}`);
const rows = (key: 'full67' | 'full4011' | 'proxy67' | 'proxy4011') => MATRIX.map((row): [string, string, string, MatrixRow] => [name(row.arch), row.asker, gist(row[key]), row]);
const expected = (cell: Cell): Expected | undefined => ('silent' in cell ? undefined : cell);

it('the matrix has each architecture with each asker once', () => {
  expect(new Set(MATRIX.map(({ arch, asker }) => `${arch} ${asker}`)).size).toBe(27);
  expect([...new Set(MATRIX.map(({ arch }) => arch))]).toEqual([0, 6, 7, 9, 10, 11, 0x0f, 0x10, 0x13]);
});

describe('full mode, port 67', () => {
  it.each(rows('full67'))('%s %s: %s', async (_arch, _asker, _gist, { arch, asker, full67 }) => {
    const client = clientOf(await worldWith(full), 1, said(arch, asker));
    const offer = expected(full67)!;
    expect(seen(await client.discover())).toEqual(offer);
    // The ACK says the same: firmware takes its boot file from the one or from the other.
    expect(seen(await client.select(offer.yiaddr))).toEqual({ ...offer, message: 'ack' });
  });
});

describe('proxy mode, port 67', () => {
  it.each(rows('proxy67'))('%s %s: %s', async (_arch, _asker, _gist, { arch, asker, proxy67 }) => {
    const world = await worldWith(proxy);
    const client = clientOf(world, 1, said(arch, asker));
    expect(seen(await client.discover())).toEqual(expected(proxy67));
    expect(await client.select('10.77.0.55', [server('10.77.0.2')]), 'its REQUEST to the other server').toBeUndefined();
    expect(world.counters.failed).toBe(0);
  });
});

describe.each([['full', full, '10.77.0.11', 'full4011'], ['proxy', proxy, '10.77.0.55', 'proxy4011']] as const)('%s mode, port 4011', (_mode, options, ip, key) => {
  it.each(rows(key))('%s %s: %s', async (_arch, _asker, _gist, row) => {
    const world = await worldWith(options);
    const client = clientOf(world, 1, said(row.arch, row.asker));
    const sent = await world.hear(client.packet('request', [], { ciaddr: ip }), { port: 4011, from: ip });
    expect(seen(sent[0])).toEqual(expected(row[key]));
    expect(sent.every(({ port, packet }) => port === 4011 && packet.ciaddr === ip)).toBe(true);
    expect(world.counters.failed).toBe(0);
  });
});
