// Quirks in a running daemon: each thing that one can send, what a machine is learned by, and where people see it.
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { OPT } from '../../src/dhcp/options.ts';
import type { Packet } from '../../src/dhcp/packet.ts';
import { bootFileOf, createMachine, createRelay, SERVER_IP, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

const run = promisify(execFile);
const mac = (last: number): string => `52:54:00:00:00:${String(last).padStart(2, '0')}`;
const PROFILE = `image: debian-k0s
nodes:
  n1: { macs: ["${mac(1)}"], ip: 127.0.0.11 }
  n2: { macs: ["${mac(2)}"], ip: 127.0.0.12 }
  n3: { macs: ["${mac(3)}"], ip: 127.0.0.13, loader: auto }
  n4: { macs: ["${mac(4)}"], ip: 127.0.0.14, exit: exit }
  n6: { macs: ["${mac(6)}", "${mac(7)}"], ip: 127.0.0.16 }
`;
const LOCAL = `boot: local\nnodes:\n  disk: { macs: ["${mac(5)}"], ip: 127.0.0.15 }\n`;
const quirks = (...rows: readonly string[]) => `quirks:\n${rows.map((row, index) => `  - { name: q${index}, ${row} }\n`).join('')}`;

interface Shown {
  readonly exit: string;
  readonly quirks: readonly { readonly name: string; readonly by: readonly string[]; readonly send: object; readonly inForce: boolean }[];
  readonly seen?: { readonly manufacturer?: string; readonly product?: string; readonly serial?: string; readonly vendorClass?: string };
}

let relay: Relay;
let world: World | undefined;
const machines = new Map<number, Machine>();

beforeAll(async () => {
  await run('ip', ['link', 'set', 'lo', 'up']);
  relay = await createRelay();
});
afterAll(() => relay?.close());
afterEach(async () => {
  await world?.stop();
  world = undefined;
  machines.clear();
});

async function start(file: string, mode: 'full' | 'proxy' = 'full', dhcp?: string): Promise<World> {
  world = await startWorld({ profiles: { 'rack.yaml': PROFILE, 'disk.yaml': LOCAL, 'quirks.yaml': file }, mode, ...(dhcp ? { dhcp } : {}), ...(mode === 'proxy' ? { pool: null } : {}) });
  for (let last = 1; last <= 9; last++) machines.set(last, createMachine(relay, mac(last), world.httpPort));
  return world;
}

const machine = (last: number): Machine => machines.get(last)!;
const node = (name: string) => world!.api<Shown>(`/api/nodes/${name}`);
const hex = (packet: Packet | undefined, tag: number): string | undefined => {
  const value = packet?.options.get(tag);
  return value && Buffer.from(value).toString('hex');
};
const script = async (one: Machine): Promise<string> => (await one.http('GET', `/script/${one.mac}`)).text;
const cli = async (...args: string[]): Promise<string> => (await run(process.execPath, [join(import.meta.dirname, '../../dist/cli.js'), '--url', `unix:${join(world!.dir, 'state/api.sock')}`, ...args])).stdout;

describe('sent in full mode', () => {
  it('option 43: none, its own bytes, and the usual without a quirk; HTTP Boot gets none whatever it says', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { option43: none }`, `match: { mac: "${mac(2)}" }, send: { option43: 06:01:03:0A:02:00:41 }`));
    expect(hex(await machine(1).dora('rom'), OPT.vendorSpecific)).toBeUndefined();
    expect(hex(await machine(2).dora('rom'), OPT.vendorSpecific)).toBe('0601030a020041');
    expect(hex(await machine(2).dora('uefi'), OPT.vendorSpecific)).toBe('0601030a020041');
    expect(hex(await machine(2).dora('uefi-http'), OPT.vendorSpecific)).toBeUndefined();
    expect(hex(await machine(3).dora('rom'), OPT.vendorSpecific)).toBe('060108');
    expect(hex(await machine(3).dora('uefi'), OPT.vendorSpecific)).toBeUndefined();
  });

  it('the loader, with its bytes; not in place of one that node or profile asks for, nor one that cannot run', async () => {
    await start(quirks('match: { vendorClass: "PXEClient:Arch:0000?:*" }, send: { exit: exit }', 'match: { vendorClass: "PXEClient:Arch:0000*:UNDI:003016" }, send: { loader: ipxe }', `match: { mac: "${mac(2)}" }, send: { loader: snponly }`));
    expect(bootFileOf(await machine(1).dora('rom'))).toBe('ipxe.pxe');
    expect((await machine(1).tftp('ipxe.pxe')).equals(readFileSync('/usr/lib/ipxe/ipxe.pxe'))).toBe(true);
    expect(bootFileOf(await machine(1).dora('uefi'))).toBe('ipxe.efi');
    expect(bootFileOf(await machine(2).dora('rom'))).toBe('ipxe.pxe');
    expect(bootFileOf(await machine(3).dora('rom'))).toBe('undionly.kpxe');
  });

  it('the block size of TFTP, held against curl, and no larger one than the subnet carries', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { blksize: 1024 }`, `match: { mac: "${mac(2)}" }, send: { blksize: 9000 }`));
    const fetched = async (last: number): Promise<number | undefined> => {
      await machine(last).dora('rom');
      const out = join(world!.dir, `file${last}`);
      await run('curl', ['--silent', '--show-error', '--max-time', '20', '--interface', `127.0.0.1${last}`, '--tftp-blksize', '8192', '--output', out, `tftp://${SERVER_IP}/undionly.kpxe`]);
      expect(readFileSync(out).equals(readFileSync('/usr/lib/ipxe/undionly.kpxe'))).toBe(true);
      const lines = () => world!.log().split('\n').filter((line) => line.includes(`"ip":"127.0.0.1${last}"`) && line.includes('blockSize'));
      await expect.poll(lines).toHaveLength(1);
      return (JSON.parse(lines()[0]!) as { blockSize?: number }).blockSize;
    };
    expect([await fetched(1), await fetched(2), await fetched(3)]).toEqual([1024, 1468, 1468]);
  });

  it('the exit method of a node that boots from its disk, but its own comes first', async () => {
    await start(quirks(`match: { arch: amd64 }, send: { exit: EFI/debian/grubx64.efi }`));
    for (const last of [4, 5]) {
      await world!.api(`/api/nodes/n4/next`, 'POST', { next: 'local' });
      await machine(last).dora('ipxe');
    }
    expect(await script(machine(5))).toContain('sanboot --no-describe --drive 0 --filename \\EFI\\debian\\grubx64.efi || exit 1');
    expect(await script(machine(4))).not.toContain('sanboot');
    expect([(await node('disk')).exit, (await node('n4')).exit]).toEqual(['EFI/debian/grubx64.efi', 'exit']);
    const grub = async (one: Machine): Promise<string> => (await one.http('GET', `/${one.mac}/grub.cfg`)).text;
    expect(await grub(machine(5))).toContain('/EFI/debian/grubx64.efi');
    expect(await grub(machine(4))).not.toContain('grubx64');
    // They have no boot that could be their next.
    expect([(await node('disk')).quirks, (await node('n4')).quirks]).toMatchObject([[{ inForce: true }], [{ inForce: true }]]);
    expect(await cli('node', 'show', 'disk')).toMatch(/^quirks: q0 \(by arch amd64; exit EFI\/debian\/grubx64.efi\)$/m);
  });

  it('to a machine that no profile names, by what its own packet says', async () => {
    await start(quirks(`match: { mac: "${mac(9)}" }, send: { loader: ipxe, option43: none }`), 'full', `{ mode: full, serve: discovered, onConflict: ignore, subnets: [{ subnet: 127.0.0.0/8, serverIp: ${SERVER_IP}, conflictCheck: off, pool: 127.0.1.1-127.0.1.100 }] }`);
    const [ours, other] = [await machine(9).dora('rom'), await machine(8).dora('rom')];
    expect([bootFileOf(ours), hex(ours, OPT.vendorSpecific)]).toEqual(['ipxe.pxe', undefined]);
    expect([bootFileOf(other), hex(other, OPT.vendorSpecific)]).toEqual(['undionly.kpxe', '060108']);
  });
});

describe('sent in proxy mode', () => {
  const answers = async (last: number, kind: 'rom' | 'uefi') => {
    const offer = await machine(last).discover(kind);
    await machine(last).takeElsewhere(kind, `127.0.0.1${last}`, '127.0.0.99');
    const ack = await machine(last).bootServer(kind);
    return { offer: [offer && bootFileOf(offer), hex(offer, OPT.vendorSpecific)], ack: [ack && bootFileOf(ack), hex(ack, OPT.vendorSpecific)] };
  };

  it('the proxy style: UEFI with its file in the OFFER, BIOS with its file by port 4011 alone; both are answered there', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { proxyStyle: offer }`, `match: { mac: "${mac(2)}" }, send: { proxyStyle: port-4011 }`), 'proxy');
    expect(await answers(1, 'uefi')).toEqual({ offer: ['snponly.efi', undefined], ack: ['snponly.efi', undefined] });
    expect(await answers(2, 'rom')).toEqual({ offer: ['', undefined], ack: ['undionly.kpxe', '060108'] });
    // As they are without.
    expect(await answers(3, 'uefi')).toEqual({ offer: ['', undefined], ack: ['snponly.efi', undefined] });
    expect(await answers(4, 'rom')).toEqual({ offer: ['undionly.kpxe', '060108'], ack: ['undionly.kpxe', '060108'] });
  });

  it('option 43 in the OFFER without a file, too, when a quirk has bytes for it', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { option43: 06:01:08, proxyStyle: port-4011 }`), 'proxy');
    expect(await answers(1, 'uefi')).toEqual({ offer: ['', '060108'], ack: ['snponly.efi', '060108'] });
  });
});

describe('learned', () => {
  /** As far as its session, with what its initrd stage read in SMBIOS. */
  async function boot(one: Machine, smbios: string): Promise<string> {
    await one.dora('ipxe');
    const id = /rackseed\.boot=(\w+)/.exec(await script(one))![1]!;
    expect((await one.http('POST', '/enrol', { body: `mac ${one.mac}\nboot ${id}\n${smbios}` })).status).toBe(201);
    return id;
  }

  it('by SMBIOS, from the next boot on, shown as such, and written into the record of that boot', async () => {
    await start(quirks('match: { product: "NUC5*" }, send: { option43: none, exit: sanboot, blksize: 1024 }'));
    const one = machine(1);
    const first = await boot(one, 'manufacturer Intel Corporation\nproduct NUC5i5RYB\nserial To Be Filled By O.E.M.\n');
    await expect.poll(async () => (await node('n1')).quirks).toEqual([{ name: 'q0', by: ['product NUC5*'], send: { option43: 'none', exit: 'sanboot', blksize: 1024 }, inForce: false }]);
    expect((await node('n1')).seen).toMatchObject({ manufacturer: 'Intel Corporation', product: 'NUC5i5RYB', vendorClass: 'PXEClient:Arch:00000:UNDI:003016' });
    expect((await node('n1')).seen).not.toHaveProperty('serial');
    expect(await cli('node', 'show', 'n1')).toMatch(/^quirks: q0 \(by product NUC5\*; blksize 1024, exit sanboot, option43 none\), from its next boot$/m);
    expect(await world!.api(`/api/boots/${first}`)).not.toHaveProperty('quirks');

    const second = await boot(one, '');
    expect(await world!.api(`/api/boots/${second}`)).toMatchObject({ quirks: [{ name: 'q0', by: ['product NUC5*'], send: { option43: 'none', exit: 'sanboot', blksize: 1024 } }] });
    expect((await node('n1')).quirks).toMatchObject([{ name: 'q0', inForce: true }]);
    expect(await cli('node', 'show', 'n1')).toMatch(/^quirks: q0 \(by product NUC5\*; blksize 1024, exit sanboot, option43 none\)$/m);
    expect(await cli('boot', 'show', 'n1')).toMatch(/^quirks: q0 \(by product NUC5\*; blksize 1024, exit sanboot, option43 none\)$/m);
    expect(JSON.parse(await cli('node', 'show', 'n1', '-o', 'json'))).toMatchObject({ quirks: [{ name: 'q0', inForce: true }] });
    expect(world!.log()).toMatch(new RegExp(`"boot":"${second}"[^\n]*"quirks":\\["q0"\\][^\n]*boot started`));

    // And where it is asked for: on the way to its disk.
    await world!.api('/api/nodes/n1/next', 'POST', { next: 'local' });
    await one.dora('ipxe');
    expect(await script(one)).toContain('sanboot --no-describe --drive 0x80');
  });

  it('by the card that booted last; before any boot it may be each', async () => {
    await start(quirks(`match: { mac: "${mac(7)}" }, send: { option43: none }`));
    expect((await node('n6')).quirks).toMatchObject([{ name: 'q0', inForce: false }]);
    await machine(6).dora('ipxe');
    expect((await node('n6')).quirks).toEqual([]);
    await world!.endOpenBoot('n6');
    await machine(7).dora('ipxe');
    expect((await node('n6')).quirks).toMatchObject([{ name: 'q0', inForce: true }]);
  });

  it('by nobody who may not enrol', async () => {
    await start(quirks('match: { product: X }, send: { exit: sanboot }'));
    await machine(1).dora('ipxe');
    expect((await machine(1).http('POST', '/enrol', { body: `mac ${mac(1)}\nproduct X\n` })).status).toBe(403);
    expect((await node('n1')).seen).not.toHaveProperty('product');
  });
});

describe('the file', () => {
  it('is read again when it is edited: the open boot keeps what it had, the next one gets the new', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { loader: ipxe }`));
    expect(bootFileOf(await machine(1).dora('rom'))).toBe('ipxe.pxe');
    rmSync(join(world!.profilesDir, 'quirks.yaml'));
    await expect.poll(async () => (await node('n1')).quirks, { timeout: 5_000 }).toEqual([]);
    expect(bootFileOf(await machine(1).dora('rom'))).toBe('ipxe.pxe');
    await world!.endOpenBoot('n1');
    expect(bootFileOf(await machine(1).dora('rom'))).toBe('undionly.kpxe');
  });

  it('with a fault changes nothing, and the fault has its place', async () => {
    await start(quirks(`match: { mac: "${mac(1)}" }, send: { loader: ipxe }`));
    writeFileSync(join(world!.profilesDir, 'quirks.yaml'), quirks(`match: { mca: "${mac(1)}" }, send: { loader: ipxe }`));
    await expect.poll(async () => JSON.stringify(await world!.apiStatus('/readyz'))).toContain('quirks.yaml:2:26: unknown key mca (did you mean mac?)');
    expect(bootFileOf(await machine(1).dora('rom'))).toBe('ipxe.pxe');
    const checked = await cli('check', '--profiles', world!.profilesDir).catch((error: { code: number; stderr: string }) => error);
    expect(checked).toMatchObject({ code: 65, stderr: expect.stringContaining('unknown key mca (did you mean mac?)') as string });
  });
});
