// The loader table: what each firmware gets from each set with each wish, the same rows in docs/HARDWARE.md, and how programs are told apart.
import { existsSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decide, type BootDecision, type View } from '../../src/boot/decide.ts';
import { HOLD_S } from '../../src/boot/hold.ts';
import { chooseLoader, DEBIAN_12_LOADERS, LOADER_CHOICES, LOADER_FILE, LOADER_TABLE, loaderVersion, runsOn, type LoaderProgram, type LoaderRow } from '../../src/boot/loader.ts';
import { machineOf as machineIn, type BootRequest, type Machine } from '../../src/boot/request.ts';
import { identify } from '../../src/dhcp/client.ts';
import { message, OPT, text, uint16s } from '../../src/dhcp/options.ts';
import { bootWith, generationOf, nodeNamed } from './boot-world.ts';
import { packetWith } from './dhcp-world.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
const machineOf = ({ firmware, arch }: LoaderRow): Machine => ({ firmware, ...(arch ? { arch } : {}) });
const SID: readonly LoaderProgram[] = [...DEBIAN_12_LOADERS, { name: 'ipxe-amd64.efi', runsOn: 'efi-amd64' }, { name: 'ipxe-arm64.efi', runsOn: 'efi-arm64' }, { name: 'ipxe-riscv64.efi', runsOn: 'efi-riscv64' }];
const UEFI: Machine = { firmware: 'uefi', arch: 'amd64' };
const ARM: Machine = { firmware: 'uefi', arch: 'arm64' };

describe('docs/HARDWARE.md', () => {
  const files = (names: readonly string[] = []): string => names.map((name) => `\`${name}\``).join(' or ');
  /** A row as the page has it. */
  function cells(row: LoaderRow): string[] {
    const { auto = [], ...choices } = row.files;
    const types = row.types.map((type) => `0x${type.toString(16).padStart(2, '0')}`).join(', ');
    const other = Object.entries(choices).filter(([, names]) => names[0] !== auto[0]).map(([choice, names]) => `; \`loader: ${choice}\`: ${files(names)}`);
    return [
      row.machine,
      `93 = ${types}${row.firmware === 'bios' ? ' or nothing' : ''}; 60 \`${row.vendorClass}\``,
      auto.length === 0 ? `nothing: ${row.source}` : `${files(auto)} by ${row.via.toUpperCase()}${other.join('')}`,
      row.test ? `\`test/${row.test}\`` : 'none',
    ];
  }

  it('has the rows of the code, in the same order', () => {
    const docs = readFileSync(`${ROOT}docs/HARDWARE.md`, 'utf8');
    const [table] = /^\| firmware \| what it sends \| what we answer \| test \|\n(?:\|.*\n)+/m.exec(docs) ?? [''];
    const rows = table.trimEnd().split('\n').slice(2).map((line) => line.split('|').slice(1, -1).map((cell) => cell.trim()));
    expect(rows).toEqual(LOADER_TABLE.map(cells));
  });

  it('names tests that are there', () => {
    const tests = LOADER_TABLE.flatMap(({ test }) => test ?? []);
    expect(tests.length).toBeGreaterThan(0);
    expect(tests.filter((test) => !existsSync(`${ROOT}test/${test}`))).toEqual([]);
  });
});

describe('the table', () => {
  it.each(LOADER_TABLE.flatMap((row) => row.types.map((type) => [type, row] as const)))('a machine of type %i is that of its row', (type, row) => {
    const { firmware, arch } = identify(packetWith([[OPT.clientArch, uint16s(type)], [OPT.vendorClass, text(`${row.vendorClass}:Arch:${String(type).padStart(5, '0')}:UNDI:003001`)]]));
    expect([firmware, row.arch ?? arch]).toEqual([row.firmware, arch]);
  });

  it('has one row for each machine and for each type', () => {
    const [machines, types] = [LOADER_TABLE.map(({ firmware, arch }) => `${firmware} ${arch}`), LOADER_TABLE.flatMap((row) => row.types)];
    expect([new Set(machines).size, new Set(types).size]).toEqual([machines.length, types.length]);
  });
});

describe('a type of option 93 that no row has', () => {
  const known = new Set(LOADER_TABLE.flatMap(({ types }) => types));
  const types = Array.from({ length: 0x140 }, (_, type) => type).filter((type) => !known.has(type));
  const word = (type: number): string => `0x${type.toString(16).padStart(2, '0')}`;
  const said = (type: number, vendorClass: string, asker?: string) => identify(packetWith([[OPT.messageType, message('discover')], [OPT.clientArch, uint16s(type)], [OPT.vendorClass, text(vendorClass)], ...(asker ? [[OPT.userClass, text(asker)] as [number, Uint8Array]] : [])]));
  const generation = generationOf(nodeNamed('n1'));

  it.each(['PXEClient', 'HTTPClient'])('gets no loader, whatever the set has, and never the file of a BIOS: %s', (vendorClass) => {
    expect(types).toContain(0x27);
    for (const type of types) {
      for (const wish of [...LOADER_CHOICES, 'undionly.kpxe', 'uki']) expect(chooseLoader(said(type, vendorClass), SID, wish)).toEqual({ why: `no loader for architecture type ${word(type)} yet` });
      expect(decide({ failedInRow: 0, loaders: SID }, { ...said(type, vendorClass), serve: 'any' }, generation)).toEqual({ kind: 'hold', why: `no loader for architecture type ${word(type)} yet`, retryAfterS: HOLD_S });
    }
  });

  it('holds its node with the reason, also an iPXE, which would start the kernel of another processor', () => {
    const image = generation.bootSets[generation.profiles['k0s-single']!.bootSet!]!.image;
    const why = `image ${image.name} is for ${image.arch}, this machine is of architecture type 0x27`;
    for (const loader of [undefined, 'uki', 'undionly']) {
      const view: View = { node: nodeNamed('n1', loader === undefined ? {} : { loader }), failedInRow: 0, loaders: SID, openBoot: bootWith(['discover']) };
      expect(decide(view, said(0x27, 'PXEClient'), generation)).toEqual({ kind: 'hold', why, retryAfterS: HOLD_S });
      const ipxe: BootRequest = { ...said(0x27, 'PXEClient', 'iPXE'), features: ['http', 'efi'] };
      expect(decide(view, ipxe, generation)).toEqual({ kind: 'hold', why, retryAfterS: HOLD_S });
      expect(decide(view, { ...machineIn(ipxe), via: 'http', wants: 'script' }, generation)).toEqual({ kind: 'hold', why, retryAfterS: HOLD_S });
    }
  });
});

describe('a choice', () => {
  it.each<[string, Machine, readonly LoaderProgram[], string | undefined, unknown]>([
    ['a BIOS gets undionly', { firmware: 'bios', arch: 'amd64' }, DEBIAN_12_LOADERS, undefined, { file: 'undionly.kpxe', via: 'tftp' }],
    ['a ROM that says nothing counts as BIOS', {}, DEBIAN_12_LOADERS, undefined, { file: 'undionly.kpxe', via: 'tftp' }],
    ['a BIOS whose card has no UNDI worth its name gets drivers of iPXE by choice', { firmware: 'bios' }, DEBIAN_12_LOADERS, 'ipxe', { file: 'ipxe.pxe', via: 'tftp' }],
    ['UEFI x64 gets snponly', UEFI, DEBIAN_12_LOADERS, 'auto', { file: 'snponly.efi', via: 'tftp' }],
    ['and drivers of iPXE by choice', UEFI, DEBIAN_12_LOADERS, 'ipxe', { file: 'ipxe.efi', via: 'tftp' }],
    ['also by HTTP', { ...UEFI, firmware: 'uefi-http' }, DEBIAN_12_LOADERS, 'ipxe', { file: 'ipxe.efi', via: 'http' }],
    ['without snponly in the set it gets ipxe', UEFI, [{ name: 'ipxe-amd64.efi', runsOn: 'efi-amd64' }], 'auto', { file: 'ipxe-amd64.efi', via: 'tftp' }],
    ['who asked for snponly gets no other one', UEFI, [{ name: 'ipxe.efi', runsOn: 'efi-amd64' }], 'snponly', { why: "no loader for amd64 uefi: snponly.efi is not in the loader set (Debian's package ipxe has it)" }],
    ['arm64 is held with the package that it lacks', ARM, DEBIAN_12_LOADERS, undefined, { why: "no loader for arm64 uefi: ipxe-arm64.efi is not in the loader set (Debian's package ipxe has it from 1.21.1 (trixie) on, and 2.0.0 (sid) is the better one)" }],
    ['and gets it where the set has it', ARM, SID, undefined, { file: 'ipxe-arm64.efi', via: 'tftp' }],
    ['IA32 is held with the GRUB that it lacks', { firmware: 'uefi', arch: 'i386' }, SID, undefined, { why: expect.stringContaining('no loader for i386 uefi: grubnetia32.efi is not in the loader set (no Debian suite has an iPXE for it') as string }],
    ['arm32 is held: there is none', { firmware: 'uefi', arch: 'armhf' }, SID, undefined, { why: 'no loader for armhf uefi: no Debian suite has an iPXE for it' }],
    ['undionly is no program of UEFI', UEFI, SID, 'undionly', { why: 'loader: undionly does not run on this machine, which is amd64 uefi' }],
    ['snponly is no program of a BIOS', { firmware: 'bios' }, SID, 'snponly', { why: 'loader: snponly does not run on this machine, which is bios' }],
    ['a file of the set is given as it is', UEFI, [{ name: 'own.efi', runsOn: 'efi-amd64' }], 'own.efi', { file: 'own.efi', via: 'tftp' }],
    ['never to a machine that cannot start it', ARM, SID, 'ipxe.efi', { why: 'loader: ipxe.efi is for efi-amd64, this machine is arm64 uefi' }],
    ['never when it is none', UEFI, [{ name: 'own.efi', runsOn: 'unknown' }], 'own.efi', { why: 'loader: own.efi is no program that firmware starts, this machine is amd64 uefi' }],
    ['and never when the set lost it', UEFI, DEBIAN_12_LOADERS, 'own.efi', { why: 'loader: own.efi is not in the loader set' }],
    ['HTTP Boot of a processor that nobody knows has none', { firmware: 'uefi-http' }, SID, undefined, { why: 'no loader for unknown uefi-http yet' }],
    ['a file of another processor under a name of the table is not handed out', UEFI, [{ name: 'snponly.efi', runsOn: 'efi-arm64' }], 'auto', { why: expect.stringContaining('no loader for amd64 uefi') as string }],
  ])('%s', (_sentence, machine, set, wish, chosen) => {
    expect(chooseLoader(machine, set, wish)).toEqual(chosen);
  });
});

describe('decide, over every firmware, set, wish and way to ask', () => {
  const generation = generationOf(nodeNamed('n1'));
  const names = [...new Set([...LOADER_TABLE.flatMap(({ files }) => Object.values(files).flat()), 'own.efi', 'own.kpxe'])];
  // Half of them what their name says, half anything.
  const program = fc.oneof(fc.constantFrom(...SID), fc.record({ name: fc.constantFrom(...names), runsOn: fc.constantFrom('bios', 'efi-amd64', 'efi-arm64', 'efi-i386', 'unknown') }) as fc.Arbitrary<LoaderProgram>);
  const asked = fc.record({
    machine: fc.constantFrom<Machine>({}, { firmware: 'uefi-http' }, ...LOADER_TABLE.map(machineOf)),
    set: fc.uniqueArray(program, { selector: ({ name }) => name }),
    wish: fc.option(fc.constantFrom<string>(...LOADER_CHOICES, ...names), { nil: undefined }),
    request: fc.constantFrom<BootRequest>({ via: 'dhcp', asker: 'rom', message: 'discover' }, { via: 'dhcp', asker: 'rom', serve: 'any' }, { via: 'dhcp', asker: 'ipxe', features: [], message: 'discover' }, { via: 'dhcp', asker: 'ipxe', features: ['http', 'bzimage'] }),
    known: fc.boolean(),
    failedInRow: fc.constantFrom(0, 99),
  });
  const loaderIn = (decision: BootDecision) => (decision.kind === 'loader' ? decision : decision.kind === 'hold' ? decision.loader : undefined);

  it('no name is handed out that the set does not have, or that the machine cannot start', () => {
    let given = 0;
    fc.assert(
      fc.property(asked, ({ machine, set, wish, request, known, failedInRow }) => {
        const view: View = { failedInRow, loaders: set, ...(known ? { node: nodeNamed('n1', wish === undefined ? {} : { loader: wish }) } : {}) };
        const decision = decide(view, { ...request, ...machine }, generation);
        const loader = loaderIn(decision);
        if (!loader) return;
        given++;
        const row = LOADER_TABLE.find((one) => one.firmware === (machine.firmware ?? 'bios') && (one.arch === undefined || one.arch === machine.arch))!;
        expect(set).toContainEqual({ name: loader.file, runsOn: row.runsOn });
        expect(loader.via).toBe(row.via);
        if (known && wish !== undefined && LOADER_FILE.test(wish)) expect(loader.file).toBe(wish);
      }),
      { numRuns: 3_000 },
    );
    expect(given).toBeGreaterThan(100);
  });

  it('who had its loader in this boot and comes back as an iPXE is never given another one', () => {
    fc.assert(
      fc.property(asked, ({ machine, set, wish, request, failedInRow }) => {
        if (request.asker !== 'ipxe') return;
        const view: View = { failedInRow, loaders: set, openBoot: bootWith(['discover', 'lease', 'loader']), node: nodeNamed('n1', wish === undefined ? {} : { loader: wish }) };
        expect(decide(view, { ...request, ...machine }, generation).kind).not.toBe('loader');
      }),
      { numRuns: 1_000 },
    );
  });
});

describe('a program', () => {
  /** The least of a PE file that says its machine. */
  function pe(machine: number, at = 0x80): Buffer {
    const bytes = Buffer.alloc(at + 6);
    bytes.write('MZ');
    bytes.writeUInt32LE(at, 0x3c);
    bytes.write('PE\0\0', at, 'latin1');
    bytes.writeUInt16LE(machine, at + 4);
    return bytes;
  }

  it.each<[string, string, Uint8Array, string]>([
    ['of x64', 'a.efi', pe(0x8664), 'efi-amd64'],
    ['of IA32', 'a.efi', pe(0x014c), 'efi-i386'],
    ['of arm64, whatever its name', 'undionly.kpxe', pe(0xaa64), 'efi-arm64'],
    ['of a processor that we have no name for', 'a.efi', pe(0x6264), 'unknown'],
    ['of a BIOS, by its name alone', 'undionly.kpxe', Buffer.from([0xea, 5, 0, 0xc0]), 'bios'],
    ['that is none', 'a.efi', Buffer.from('#!/bin/sh'), 'unknown'],
    ['whose header lies behind its end', 'a.efi', pe(0x8664).subarray(0, 0x82), 'unknown'],
    ['that is empty', 'a.efi', Buffer.alloc(0), 'unknown'],
  ])('%s', (_what, name, bytes, expected) => {
    expect(runsOn(name, bytes)).toBe(expected);
  });

  it.each<[string, string, string]>([
    ['in .sbat', '\0ipxe,1,iPXE,snponly.efi,2.0.0+dfsg-5,https://ipxe.org\n', '2.0.0+dfsg-5'],
    ['behind the product\'s name', 'efi\0iPXE\0\0\0\x001.0.0+git-20190125.36a4c85-5.1\0', '1.0.0+git-20190125.36a4c85-5.1'],
    ['nowhere', '\0iPXE\0', 'unknown'],
    ['of shim and GRUB, as Debian has them', '\nshim,4,UEFI shim,shim,1,https://github.com/rhboot/shim\nshim.debian,1,Debian,shim,16.1,https://tracker.debian.org/pkg/shim\n', '16.1'],
    ['with its revision, of GRUB', '\ngrub.debian,5,Debian,grub2,2.06-13+deb12u2,https://tracker.debian.org/pkg/grub2\n', '2.06-13+deb12u2'],
    ['of a shim that is not Debian\'s', '\nshim,4,UEFI shim,shim,1,https://github.com/rhboot/shim\n', 'unknown'],
  ])('tells its version %s', (_where, content, version) => {
    expect(loaderVersion(Buffer.from(content, 'latin1'))).toBe(version);
  });
});
