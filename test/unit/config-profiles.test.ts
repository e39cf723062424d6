// Boot profiles become one generation, or every fault of every file; nothing in between.
import { mkdtempSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSubnet } from '../../src/addr.ts';
import type { Generation } from '../../src/boot/profile.ts';
import { compile, readProfiles, type ProfileFile } from '../../src/config/profiles.ts';
import { parseSettings } from '../../src/config/settings.ts';
import type { Resolver } from '../../src/config/resolver.ts';
import { digestOfValue } from '../../src/digest.ts';
import { formatFault } from '../../src/errors.ts';
import { SHIPPED } from '../../src/shipped.ts';
import { BROKEN, broken, good, KEY, KNOWN, OTHER_KEY } from './broken-profiles.ts';
import { COMMIT, IMAGE, knownResolver } from './known-resolver.ts';

const SUBNETS = [{ subnet: parseSubnet(KNOWN.subnet)!, serverIp: KNOWN.serverIp, router: KNOWN.router }];
const one = (text: string, name = 'a.yaml'): ProfileFile[] => [{ file: `boot-profiles/${name}`, text }];

async function generationOf(files: readonly ProfileFile[], resolver = knownResolver): Promise<Generation> {
  const { generation, faults } = await compile(files, resolver, SUBNETS);
  expect(faults.map(formatFault)).toEqual([]);
  return generation!;
}

async function faultsOf(files: readonly ProfileFile[], resolver = knownResolver): Promise<string[]> {
  const { generation, faults } = await compile(files, resolver, SUBNETS);
  expect(generation).toBeUndefined();
  return faults.map((fault) => formatFault(fault).replaceAll('boot-profiles/', ''));
}

describe('good profiles', () => {
  test('become nodes, profiles and boot sets with every name resolved', async () => {
    const generation = await generationOf(good());
    const id = generation.profiles['a']!.bootSet!;
    expect(generation.bootSets[id]).toEqual({
      image: IMAGE,
      cmdline: ['console=ttyS0', 'quiet'],
      root: { state: 'none' },
      postBoot: { repo: 'post-boot', commit: COMMIT, steps: 'k0s-single' },
      artifacts: { k0s: await knownResolver.artifact('k0s', KNOWN.version) },
      vars: { replicas: '3' },
      sshKeys: [KEY],
      config: { 'etc/motd': 'hello', 'run.sh': '#!/bin/sh\n' },
      shell: true,
    });
    expect(id).toBe(digestOfValue(generation.bootSets[id]));
    expect(generation.profiles['b']).toEqual({ name: 'b' });
    expect(generation.nodes['n2']).toEqual({ name: 'n2', macs: ['52:54:00:12:34:57', '02:00:00:00:00:0a'], ip: '10.77.0.12', dhcpOptions: { 26: { hex: '2328' }, 42: { hex: '0a4d0005' } }, labels: {}, vars: {}, exit: 'sanboot', profile: 'a', source: 'yaml' });
    expect({ ...generation.nodeByMac }).toEqual({ '52:54:00:12:34:56': 'n1', '52:54:00:12:34:57': 'n2', '02:00:00:00:00:0a': 'n2', '52:54:00:12:34:58': 'n3' });
    expect({ ...generation.nodeByIp }).toEqual({ '10.77.0.11': 'n1', '10.77.0.12': 'n2', '10.77.0.13': 'n3' });
  });

  test("a node's DHCP options come before its profile's; a node without any has no such member", async () => {
    const { nodes } = await generationOf(good());
    expect(nodes['n1']!.dhcpOptions).toEqual({ 26: { hex: '0578' }, 42: { hex: '0a4d0005' } });
    expect(nodes['n3']).not.toHaveProperty('dhcpOptions');
    const empty = await generationOf(one('boot: local\ndhcpOptions:\nnodes:\n  n1: { macs: [52:54:00:12:34:56], dhcpOptions: {} }\n'));
    expect(empty.nodes['n1']).not.toHaveProperty('dhcpOptions');
  });

  test('what is said of the root is in the boot set, and nothing else: what is not said keeps its digest', async () => {
    const rootOf = async (root: string) => Object.values((await generationOf(one(`image: debian-k0s\nroot: ${root}\n`))).bootSets)[0]!.root;
    expect(await rootOf('{ state: LABEL=s, disk: pci-0000:00:1f.2-ata-1-part2, format: xfs, wipe: true, onMissing: ephemeral, size: 2G, minSerial: 1764000000 }')).toEqual({ state: 'LABEL=s', disk: 'pci-0000:00:1f.2-ata-1-part2', format: 'xfs', wipe: true, onMissing: 'ephemeral', size: '2g', minSerial: 1764000000 });
    expect(await rootOf('{ state: LABEL=s, cache: disk }')).toEqual({ state: 'LABEL=s', cache: 'disk' });
    for (const root of ['', '{ }', '{ wipe: false }', '{ state: none }']) expect(await rootOf(root)).toEqual({ state: 'none' });
  });

  test('keys, files and a shell that are empty or false leave the digest of the boot set and of the node alone', async () => {
    const text = 'image: debian-k0s\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n';
    const { id } = await generationOf(one(text));
    for (const more of ['ssh:\n', 'ssh: { keys: }\n', 'ssh: { keys: [] }\n', 'config:\n', 'config: {}\n', 'shell: false\n']) expect((await generationOf(one(more + text))).id).toBe(id);
    for (const more of ['ssh: { keys: [] }', 'config: {}']) expect((await generationOf(one(text.replace(' }', `, ${more} }`)))).id).toBe(id);
  });

  test("a node's own keys and files are the node's, not its boot set's", async () => {
    const text = 'image: debian-k0s\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n';
    const plain = await generationOf(one(text));
    const { nodes, profiles, id } = await generationOf(one(text.replace(' }', `, ssh: { keys: [${OTHER_KEY}] }, config: { etc/motd: 1.30 } }`)));
    expect(nodes['n1']).toMatchObject({ sshKeys: [OTHER_KEY], config: { 'etc/motd': '1.30' } });
    expect(profiles['a']!.bootSet).toBe(plain.profiles['a']!.bootSet);
    expect(id).not.toBe(plain.id);
  });

  test("the image's own parameters come before the profile's, and count for its length", async () => {
    const wants = (cmdline: string[]): Resolver => ({ ...knownResolver, image: async () => ({ ...IMAGE, cmdline }) });
    const { bootSets } = await generationOf(one('image: debian-k0s\ncmdline: [quiet]\n'), wants(['console=ttyS0', 'panic=10']));
    expect(Object.values(bootSets)[0]!.cmdline).toEqual(['console=ttyS0', 'panic=10', 'quiet']);
    expect(await faultsOf(one('image: debian-k0s\ncmdline: [quiet]\n'), wants(['x'.repeat(1495)]))).toEqual(['a.yaml:2:10: cmdline has 1501 characters with the image\'s own (1495), at most 1500 fit']);
  });

  test('loader: uki is taken where the image has a UKI, which the boot set then names', async () => {
    const uki = { digest: IMAGE.digest, size: 7 };
    const { nodes, profiles, bootSets } = await generationOf(one('image: debian-k0s\nloader: uki\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n'), { ...knownResolver, image: async () => ({ ...IMAGE, uki }) });
    expect(nodes['n1']!.loader).toBe('uki');
    expect(bootSets[profiles['a']!.bootSet!]!.image.uki).toEqual(uki);
    // By one of its nodes it is wanted as well; where nobody wants it, it changes nothing.
    const text = 'image: debian-k0s\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n';
    const withUki = { ...knownResolver, image: async () => ({ ...IMAGE, uki }) };
    const ofNode = await generationOf(one(text.replace(' }', ', loader: uki }')), withUki);
    expect(Object.values(ofNode.bootSets).map(({ image }) => image.uki)).toEqual([uki]);
    expect((await generationOf(one(text), withUki)).id).toBe((await generationOf(one(text), { ...knownResolver, image: async () => IMAGE })).id);
  });

  test("a node's loader set comes before its profile's; without one the daemon's default stays open", async () => {
    const text = 'image: debian-k0s\nloaders: ipxe-2.0\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n  n2: { macs: [52:54:00:12:34:57], loaders: default }\n';
    const { nodes } = await generationOf(one(text));
    expect([nodes['n1']!.loaders, nodes['n2']!.loaders]).toEqual(['ipxe-2.0', 'default']);
    expect(Object.keys((await generationOf(one(text.replace('loaders: ipxe-2.0\n', '')))).nodes['n1']!)).not.toContain('loaders');
  });

  test("a node's loader comes before its profile's, auto too, and a file of the set may be named", async () => {
    const text = 'image: debian-k0s\nloader: ipxe\nnodes:\n  n1: { macs: [52:54:00:12:34:56] }\n  n2: { macs: [52:54:00:12:34:57], loader: ipxe-arm64.efi }\n  n3: { macs: [52:54:00:12:34:58], loader: auto }\n';
    const { nodes } = await generationOf(one(text));
    expect([nodes['n1']!.loader, nodes['n2']!.loader, nodes['n3']!.loader]).toEqual(['ipxe', 'ipxe-arm64.efi', 'auto']);
  });

  test('DHCP options mean the same in a profile, where numbers keep their text, as in rackseed.yaml', async () => {
    const OPTIONS = '{ interface-mtu: 1400, 224: { type: uint32, value: 7, always: true }, 225: { type: text, value: "1.30" } }';
    const { nodes } = await generationOf(one(`boot: local\nnodes:\n  n1: { macs: [52:54:00:12:34:56], dhcpOptions: ${OPTIONS} }\n`));
    expect(nodes['n1']!.dhcpOptions).toEqual({ 26: { hex: '0578' }, 224: { hex: '00000007', always: true }, 225: { hex: '312e3330' } });
    expect(nodes['n1']!.dhcpOptions).toEqual(parseSettings(`dhcp: { subnets: [{ subnet: 10.77.0.0/24, options: ${OPTIONS} }] }`, '/x').dhcp.subnets[0]!.options);
  });

  test('the id is the digest of all the rest', async () => {
    const { id, ...rest } = await generationOf(good());
    expect(id).toBe(digestOfValue(rest));
  });

  test('the order of files, of keys and of nodes does not change the id', async () => {
    const { id } = await generationOf(good());
    expect((await generationOf([...good()].reverse())).id).toBe(id);
    const lines = good()[0]!.text.split('\n');
    const reordered = [...lines.slice(6, 7), ...lines.slice(8, 14), lines[7]!, ...lines.slice(14, 18).reverse(), ...lines.slice(0, 6).reverse(), ''].join('\n');
    expect((await generationOf([{ file: 'elsewhere/a.yaml', text: reordered }, good()[1]!])).id).toBe(id);
  });

  test('whatever else a store knows of its things does not change the id', async () => {
    const { id } = await generationOf(good());
    const chatty: Resolver = {
      ...knownResolver,
      image: async (name, ref) => ({ ...(await knownResolver.image(name, ref))!, builtAt: 17 }),
      artifact: async (name, version) => ({ ...(await knownResolver.artifact(name, version))!, name, addedAt: 17 }),
    };
    expect((await generationOf(good(), chatty)).id).toBe(id);
  });

  test.each([
    ['another command line', 'quiet', 'debug'],
    ['another variable', 'replicas: 3', 'replicas: 4'],
    ['another address', '10.77.0.11', '10.77.0.14'],
    ['a node moved to another profile', '  n1: { macs: [52:54:00:12:34:56], ip: 10.77.0.11, labels: { rack: r1 }, dhcpOptions: { interface-mtu: 1400 } }\n', ''],
    ['another DHCP option of a node', 'interface-mtu: 1400', 'interface-mtu: 1401'],
    ['another DHCP option of a profile', '10.77.0.5', '10.77.0.6'],
  ])('%s is another generation', async (_what, from, to) => {
    const [a, b] = good();
    expect((await generationOf([{ ...a!, text: a!.text.replace(from, to) }, b!])).id).not.toBe((await generationOf(good())).id);
  });

  test('two profiles with one content share one boot set', async () => {
    const generation = await generationOf([...one('image: debian-k0s\n', 'x.yaml'), ...one('image: debian-k0s\nroot: { state: none }\n', 'y.yml')]);
    expect(generation.profiles['x']!.bootSet).toBe(generation.profiles['y']!.bootSet);
    expect(Object.keys(generation.bootSets)).toHaveLength(1);
  });

  test('a generation is frozen to its leaves', async () => {
    const generation = await generationOf(good());
    const open: string[] = [];
    const walk = (value: unknown, at: string): void => {
      if (typeof value !== 'object' || value === null) return;
      if (!Object.isFrozen(value)) open.push(at);
      for (const [key, member] of Object.entries(value)) walk(member, `${at}.${key}`);
    };
    walk(generation, 'generation');
    expect(open).toEqual([]);
  });

  test('a lookup of a name that JavaScript objects inherit finds nothing', async () => {
    const { nodes, profiles, nodeByMac } = await generationOf(good());
    expect([nodes['constructor'], profiles['toString'], nodeByMac['__proto__']]).toEqual([undefined, undefined, undefined]);
  });

  test('no file at all is a generation that knows no machine', async () => {
    const { nodes, profiles } = await generationOf([]);
    expect([Object.keys(nodes), Object.keys(profiles)]).toEqual([[], []]);
  });

  test('sections whose content is commented out are empty', async () => {
    const generation = await generationOf(one('image: debian-k0s\nnodes:\n  # n1: {}\nvars:\nartifacts:\ncmdline:\nroot:\npostBoot:\n'));
    expect(Object.keys(generation.nodes)).toEqual([]);
  });
});

describe('YAML traps', () => {
  const FORMS = ['[52:54:00:12:34:56]', '[ 52:54:00:12:34:56 ]', '\n      - 52:54:00:12:34:56', '["52:54:00:12:34:56"]', '[525400123456]', '[52-54-00-12-34-56]', '[5254.0012.3456]'];
  test.each(FORMS.flatMap((form) => [[form, ''], [form, '%YAML 1.1\n---\n']] as const))('a MAC of digits only, written %j after %j, is that MAC', async (form, directive) => {
    const generation = await generationOf(one(`${directive}image: debian-k0s\nnodes:\n  n1:\n    macs: ${form}\n`));
    expect(generation.nodes['n1']!.macs).toEqual(['52:54:00:12:34:56']);
  });

  test('values keep the text that they were written in', async () => {
    const generation = await generationOf(one('image: debian-k0s\nvars: { version: 1.30, mode: 0755, no: no, big: 12345678901234567890, hex: 0x1F, yes: true, exp: 1e3, quoted: "1.30" }\n'));
    expect(generation.bootSets[generation.profiles['a']!.bootSet!]!.vars).toEqual({ version: '1.30', mode: '0755', no: 'no', big: '12345678901234567890', hex: '0x1F', yes: 'true', exp: '1e3', quoted: '1.30' });
  });

  test('anchors carry values to other places', async () => {
    const generation = await generationOf(one('image: debian-k0s\nvars: &v { a: 1 }\nnodes:\n  n1: { macs: [52:54:00:12:34:56], vars: *v }\n'));
    expect(generation.nodes['n1']!.vars).toEqual({ a: '1' });
  });

  test('quoted parameters keep their commas', async () => {
    const generation = await generationOf(one('image: debian-k0s\ncmdline: ["console=ttyS0,115200", quiet, 3]\n'));
    expect(generation.bootSets[generation.profiles['a']!.bootSet!]!.cmdline).toEqual(['console=ttyS0,115200', 'quiet', '3']);
  });

  test('aliases that unfold into a huge file are a fault', async () => {
    const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]', ...'bcdefghi'.split('').map((key, index) => `${key}: &${key} [${Array(9).fill(`*${'abcdefgh'[index]}`).join(',')}]`)].join('\n');
    expect(await faultsOf(one(bomb))).toEqual(['a.yaml:1:1: too many aliases']);
  });
});

describe('broken profiles', () => {
  test('the table has at least fifty, each another', () => {
    expect(BROKEN.length).toBeGreaterThanOrEqual(50);
    expect(new Set(BROKEN.map((entry) => entry.what)).size).toBe(BROKEN.length);
  });

  test.each(BROKEN.map((entry) => [entry.what, entry] as const))('%s: each fault is told with its place', async (_what, entry) => {
    expect(await faultsOf(broken(entry))).toEqual(entry.faults);
  });

  test.each(BROKEN.map((entry) => [entry.what, entry] as const))('%s: the order of files does not change what is told', async (_what, entry) => {
    expect(await faultsOf([...broken(entry)].reverse())).toEqual(entry.faults);
  });

  test('all faults of all files are told at once', async () => {
    const files = [...one('image: nothing\nfoo: 1\n', 'x.yaml'), ...one('image: debian-k0s\nroot: {', 'y.yaml'), ...one('image: debian-k0s\nnodes: { n1: { macs: [1] } }\n', 'z.yaml')];
    expect((await faultsOf(files)).map((line) => line.slice(0, 10))).toEqual(['x.yaml:1:8', 'x.yaml:2:1', 'y.yaml:2:8', 'z.yaml:2:2']);
  });

  test('two files of one name are a fault that names both', async () => {
    expect(await faultsOf([...one('boot: local\n', 'x.yml'), ...one('boot: local\n', 'x.yaml')])).toEqual(['x.yml:1:1: profile x is taken, also at x.yaml:1:1']);
  });

  test('a file whose name cannot name a profile is a fault', async () => {
    expect(await faultsOf(one('boot: local\n', 'My Rack.yaml'))).toEqual(['My Rack.yaml:1:1: a profile is named after its file, and My Rack is no name: lower-case letters, digits and . _ -']);
  });

  test.each([
    ['an address of any subnet', '10.78.0.11', false, []],
    ['our own address towards a relayed subnet', '10.77.0.9', false, ['a.yaml:8:40: ip 10.77.0.9 is our own (serverIp)']],
    ['an address of no subnet', '10.79.0.11', false, ['a.yaml:8:40: ip 10.79.0.11 is in no subnet that we serve: 10.77.0.0/24, 10.78.0.0/24']],
    ['an address of no subnet, where a card serves its own', '10.79.0.11', true, []],
    ["our own address, where a card serves its own", '10.77.0.1', true, ['a.yaml:8:40: ip 10.77.0.1 is our own (serverIp)']],
  ])('%s beside several subnets', async (_what, ip, elsewhere, told) => {
    const files = good().map(({ file, text }) => ({ file, text: text.replace('10.77.0.11', ip) }));
    const { faults } = await compile(files, knownResolver, [...SUBNETS, { subnet: parseSubnet('10.78.0.0/24')!, serverIp: '10.77.0.9' }], elsewhere);
    expect(faults.map((fault) => formatFault(fault).replaceAll('boot-profiles/', ''))).toEqual(told);
  });

  test('a store that cannot tell is a fault at the name that was asked for', async () => {
    const down: Resolver = { ...knownResolver, commit: () => Promise.reject(new Error('upstream is down\nand more')) };
    expect(await faultsOf(good(), down)).toEqual(['a.yaml:4:11: cannot be resolved: upstream is down']);
  });

  test('what breaks the schema never reaches a store or Git', async () => {
    const asked: string[] = [];
    const listening: Resolver = {
      ...knownResolver,
      image: async (name) => (asked.push(name), IMAGE),
      artifact: async (name, version) => (asked.push(name, version), undefined),
      commit: async (repo, ref) => (asked.push(repo, ref), COMMIT),
      hasSteps: async (_repo, _commit, dir) => (asked.push(dir), true),
    };
    const { faults } = await compile(one('image: ../x\nartifacts: { k0s: ../x, ../y: v1 }\npostBoot: { repo: post-boot, ref: --upload-pack=x, steps: ../etc }\n'), listening);
    expect(faults.length).toBeGreaterThanOrEqual(5);
    expect(asked).toEqual([]);
  });
});

describe('any text', () => {
  const anyText = fc.oneof(fc.string({ unit: 'binary' }), fc.string(), fc.array(fc.constantFrom('image: ', 'nodes:', '\n', '  ', '- ', '{', '}', '[', ']', 'n1', ': ', '*a', '&a ', 'macs', '!x ', '"', "'", '|\n', '? ', '<<: ', '%YAML 1.1\n', '---\n', ',', '#', '\t', 'null', '52:54:00:12:34:56', '__proto__', 'postBoot: ')).map((parts) => parts.join('')));
  test('is a generation or faults that stand inside the file, and never throws', async () => {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        const { generation, faults } = await compile(one(text), knownResolver, SUBNETS);
        expect(generation === undefined).toBe(faults.length > 0);
        const lines = text.split('\n').length;
        for (const fault of faults) {
          expect(fault.line).toBeGreaterThanOrEqual(1);
          expect(fault.line).toBeLessThanOrEqual(lines + 1);
          expect(fault.column).toBeGreaterThanOrEqual(1);
          expect(formatFault(fault)).not.toContain('\n');
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a key with a line break in it is told in one line', async () => {
    const { faults } = await compile(one('? |\n  a\n  \x1b[2Jb\n: 1\n'), knownResolver, SUBNETS);
    expect(faults.map(formatFault)).toContainEqual(expect.stringMatching(/a\.yaml:1:\d+: unknown key a \[2Jb/));
    expect(faults.map(formatFault).join('')).not.toMatch(/[\n\x1b]/);
  });

  test.each([['lists', '['], ['maps', '{ a: '], ['block lists', '- ']])('%s nested without end are one fault', async (_what, open) => {
    expect(await faultsOf(one(open.repeat(20_000)))).toEqual([expect.stringMatching(/^a\.yaml:1:\d+: nested too deeply to be read$/)]);
  });
});

describe('reading a directory', () => {
  test('takes profiles only: no editor files, no folders, ordered by name', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'rackseed-profiles-'));
    try {
      for (const name of ['b.yml', 'a.yaml', '.hidden.yaml', 'a.yaml~', '.a.yaml.swp', '#a.yaml#', '4913', 'README.md', 'a.yaml.bak']) writeFileSync(join(dir, name), name);
      symlinkSync('/nowhere', join(dir, '.#a.yaml'));
      symlinkSync('/nowhere', join(dir, 'dangling.yaml'));
      symlinkSync('b.yml', join(dir, 'link.yaml'));
      mkdirSync(join(dir, 'folder.yaml'));
      expect(await readProfiles(dir)).toEqual([
        { file: join(dir, 'a.yaml'), text: 'a.yaml' },
        { file: join(dir, 'b.yml'), text: 'b.yml' },
        { file: join(dir, 'link.yaml'), text: 'b.yml' },
      ]);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  test('that is not there is an error that says where profiles are looked for', async () => {
    await expect(readProfiles('/nowhere/boot-profiles')).rejects.toMatchObject({ code: 'PROFILES_INVALID', message: expect.stringContaining('/nowhere/boot-profiles') as string, hint: expect.stringContaining('rackseed.yaml') as string });
  });

  test('the shipped profiles compile, name no node, and carry their schema line', async () => {
    const files = await readProfiles(SHIPPED.bootProfiles);
    const generation = await generationOf(files);
    expect(Object.keys(generation.profiles)).toEqual(['k0s-single', 'plain']);
    expect(Object.keys(generation.nodes)).toEqual([]);
    for (const { text } of files) expect(text.split('\n')[0]).toBe('# yaml-language-server: $schema=../docs/schema/boot-profile.schema.json');
  });

  test('the shipped profiles still compile when their commented nodes are uncommented', async () => {
    const files = (await readProfiles(SHIPPED.bootProfiles)).map(({ file, text }) => ({ file, text: text.replace(/^ {2}# (n\d)/m, '  $1') }));
    expect(Object.keys((await generationOf(files)).nodes)).toEqual(['n1', 'n2']);
  });
});
