// What an edit would do, over two compiled generations: each change with what it takes, and nothing else.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BootSet, Generation } from '../../src/boot/profile.ts';
import { compile, type ProfileFile } from '../../src/config/profiles.ts';
import { writtenRefs } from '../../src/config/written.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { MARGIN_MIB, noRoomFor, planOf, type Plan, type Runs } from '../../src/plan.ts';
import { COMMIT, IMAGE, knownResolver } from './known-resolver.ts';

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJq4Zh2V3Vt8cGe5UzY2Z2bqkXqv9l3uJpS0vW4m3dA me@here';
const PROFILE = `image: debian-k0s
cmdline: [console=ttyS0]
postBoot: { repo: post-boot, ref: main, steps: k0s-single }
nodes:
  n1: { macs: ["52:54:00:00:00:01"], ip: 10.77.0.11 }
  n2: { macs: ["52:54:00:00:00:02"] }
`;
const NEWER = { ...IMAGE, digest: digestOfBytes('another build') };
const MOVED = 'beef'.padEnd(40, '0');

const files = (texts: Readonly<Record<string, string>>): ProfileFile[] => Object.entries(texts).map(([name, text]) => ({ file: `p/${name}.yaml`, text }));

async function generationOf(texts: Readonly<Record<string, string>>, resolver = knownResolver): Promise<Generation> {
  const { generation, faults } = await compile(files(texts), resolver);
  expect(faults).toEqual([]);
  return generation!;
}

const setOf = (generation: Generation, profile: string): BootSet => generation.bootSets[generation.profiles[profile]!.bootSet!]!;

/** All nodes run what they were assigned, unless `runs` says otherwise. */
async function planned(before: Readonly<Record<string, string>>, after: Readonly<Record<string, string>>, more: { runs?: (node: string) => Runs; resolver?: typeof knownResolver; knownBefore?: boolean } = {}): Promise<Plan> {
  const [from, to] = [await generationOf(before), await generationOf(after, more.resolver)];
  const asAssigned = (node: string): Runs => (from.nodes[node] ? { bootSet: setOf(from, from.nodes[node].profile) } : {});
  return planOf({ from, to, runs: more.runs ?? asAssigned, written: { to: writtenRefs(files(after)), ...(more.knownBefore === false ? {} : { from: writtenRefs(files(before)) }) } });
}

const told = ({ nodes }: Plan): string[] => nodes.map(({ name, was, effect, changes }) => `${name} ${was} ${effect}: ${changes.map(({ what, from = '-', to = '-', needs }) => `${what} ${from} > ${to} (${needs})`).join(', ')}`);

describe('an edit', () => {
  it.each<[what: string, edit: (text: string) => string, nodes: readonly string[]]>([
    ['of nothing changes nothing', (text) => `# a remark\n${text}`, []],
    ['of the command line needs a reboot of all', (text) => text.replace('ttyS0', 'ttyS1'), ['n1 changed reboot: cmdline console=ttyS0 > console=ttyS1 (reboot)', 'n2 changed reboot: cmdline console=ttyS0 > console=ttyS1 (reboot)']],
    ['of an address is the one node\'s', (text) => text.replace('.11', '.12'), ['n1 changed reboot: address 10.77.0.11 > 10.77.0.12 (reboot)']],
    ['of a variable reaches it by its steps', (text) => text.replace('ip: 10.77.0.11', 'ip: 10.77.0.11, vars: { a: b }'), ['n1 changed steps: own vars.a - > b (steps)']],
    ['of what a start does counts at the next one', (text) => text.replace('ip: 10.77.0.11', 'ip: 10.77.0.11, next: local, loader: ipxe'), ['n1 changed next boot: loader - > ipxe (boot), next - > local (boot)']],
    ['of keys and files is told by count and size', (text) => text.replace('ip: 10.77.0.11', `ip: 10.77.0.11, ssh: { keys: ["${KEY}"] }, config: { etc/motd: hello }`), ['n1 changed reboot: own ssh 0 keys > 1 key (reboot), own config.etc/motd - > 5 bytes (reboot)']],
    ['that adds a node says where it boots', (text) => `${text}  n3: { macs: ["52:54:00:00:00:03"] }\n`, ['n3 added next boot: ']],
    ['that takes one away lets it run', (text) => text.replace(/ {2}n2.*\n/, ''), ['n2 removed gone: ']],
    ['of a card is told by its MACs', (text) => text.replace('00:02', '00:22'), ['n2 changed next boot: macs 52:54:00:00:00:02 > 52:54:00:00:00:22 (boot)']],
  ])('%s', async (_what, edit, nodes) => {
    expect(told(await planned({ a: PROFILE }, { a: edit(PROFILE) }))).toEqual(nodes);
  });

  it('that moves a node to another profile is told with all that it then boots', async () => {
    const [without, line] = [PROFILE.replace(/ {2}n2.*\n/, ''), '  n2: { macs: ["52:54:00:00:00:02"] }\n'];
    const disk = `boot: local\nnodes:\n${line}`;
    expect(told(await planned({ a: PROFILE }, { a: without, b: disk }))).toEqual([`n2 changed reboot: profile a > b (boot), boot ${IMAGE.name}@${IMAGE.digest} > local (reboot)`]);
  });

  it('of a profile that no node has, and of quirks, is told beside the nodes', async () => {
    const found = await planned({ a: PROFILE }, { a: PROFILE, spare: 'image: debian-k0s\n' });
    expect([found.changes, found.nodes, found.withoutNodes, found.quirks]).toEqual([true, [], ['spare'], false]);
  });
});

describe('what it takes', () => {
  const edited = PROFILE.replace('ttyS0', 'ttyS1');
  it.each<[what: string, runs: (from: BootSet, to: BootSet) => Runs, effect: string]>([
    ['a node that runs what it was assigned reboots', (from) => ({ bootSet: from }), 'reboot'],
    ['one that runs nothing of ours gets it at its next boot', () => ({}), 'next boot'],
    ['one that runs it already needs nothing', (_from, to) => ({ bootSet: to }), 'none'],
    ['one whose steps alone are others runs them', (_from, to) => ({ bootSet: { ...to, vars: { old: 'yes' } } }), 'steps'],
    ['of one that runs something that is not kept nobody can tell: it reboots', () => ({ bootSet: 'gone' }), 'reboot'],
  ])('%s', async (_what, runs, effect) => {
    const [from, to] = [await generationOf({ a: PROFILE }), await generationOf({ a: edited })];
    const found = await planned({ a: PROFILE }, { a: edited }, { runs: () => runs(setOf(from, 'a'), setOf(to, 'a')) });
    expect(found.nodes.map((node) => node.effect)).toEqual([effect, effect]);
  });
});

describe('updates', () => {
  const moved = { ...knownResolver, image: async () => NEWER, commit: async () => MOVED };
  const image = { profile: 'a', what: 'image debian-k0s', from: IMAGE.digest, to: NEWER.digest };
  const commit = { profile: 'a', what: 'repository post-boot ref main', from: COMMIT, to: MOVED };

  it('are tags and refs that mean something else now', async () => {
    expect((await planned({ a: PROFILE }, { a: PROFILE }, { resolver: moved })).updates).toEqual([{ ...image, moved: true }, { ...commit, moved: true }]);
  });
  it('may have been others where nobody knows how they were written', async () => {
    expect((await planned({ a: PROFILE }, { a: PROFILE }, { resolver: moved, knownBefore: false })).updates).toEqual([image, commit]);
  });
  it('are none where the edit itself names another', async () => {
    const other = PROFILE.replace('image: debian-k0s', 'image: debian-k0s:next').replace('ref: main', 'ref: v2');
    expect((await planned({ a: PROFILE }, { a: other }, { resolver: moved })).updates).toEqual([]);
  });
  it('are none where a digest or a commit is written', async () => {
    const pinned = PROFILE.replace('image: debian-k0s', `image: debian-k0s@${NEWER.digest}`).replace('ref: main', `ref: ${MOVED}`);
    expect((await planned({ a: PROFILE }, { a: pinned }, { resolver: moved, knownBefore: false })).updates).toEqual([]);
  });
});

describe('controllers', () => {
  it.each<[what: string, edit: (text: string) => string, controllers: readonly string[]]>([
    ['are all of the shipped steps k0s-single', (text) => text, ['n1', 'n2']],
    ['are none where no role is told and the steps are others', (text) => text.replace(/postBoot.*\n/, ''), []],
    ['are told by the profile', (text) => text.replace(/postBoot.*\n/, 'vars: { role: controller+worker }\n'), ['n1', 'n2']],
    ['are told by the node before its profile', (text) => text.replace('nodes:', 'vars: { role: controller }\nnodes:').replace('ip: 10.77.0.11', 'ip: 10.77.0.11, vars: { role: worker }'), ['n2']],
    ['are told by a label', (text) => text.replace(/postBoot.*\n/, '').replace('ip: 10.77.0.11', 'ip: 10.77.0.11, labels: { role: controller }'), ['n1']],
  ])('%s', async (_what, edit, controllers) => {
    const found = await planned({ a: edit(PROFILE) }, { a: edit(PROFILE).replace('ttyS0', 'ttyS1') });
    expect(found.nodes.filter((node) => node.controller).map(({ name }) => name)).toEqual(controllers);
  });
});

describe('memory', () => {
  const bootSet = (mib: number, more: Partial<BootSet> = {}): BootSet => ({ image: { ...IMAGE, squashfs: { ...IMAGE.squashfs, size: mib * 1_048_576 } }, cmdline: [], root: { state: 'none' }, artifacts: {}, vars: {}, ...more });
  const failed = 'root: not enough memory: 500 MiB are available, the squashfs takes 900 MiB and 192 MiB must stay free';
  it.each<[what: string, set: BootSet, failure: string | undefined, says: string | undefined]>([
    ['of which nothing is known is not spoken of', bootSet(9000), undefined, undefined],
    ['is not known by another failure', bootSet(9000), 'root: no link', undefined],
    ['is too little by what the node last said', bootSet(400), failed, 'the squashfs takes 401 MiB and 192 MiB must stay free; its last boot had 500 MiB'],
    ['is just enough', bootSet(500 - MARGIN_MIB - 1), failed, undefined],
    ['has the margin of the command line, the last one', bootSet(400, { cmdline: ['rackseed.margin=10', 'rackseed.margin=20'] }), failed, undefined],
    ['is not needed by an image on a disk', bootSet(400, { root: { state: 'LABEL=s', cache: 'disk' } }), failed, undefined],
  ])('%s', (_what, set, failure, says) => {
    expect(noRoomFor(set, failure)).toBe(says);
  });
});

it('a plan of a generation against itself is empty, and of any two tells each node that differs and no other', async () => {
  const node = fc.record({ ip: fc.constantFrom('', ', ip: 10.77.0.IP'), vars: fc.constantFrom('', ', vars: { a: b }', ', vars: { a: c }'), profile: fc.constantFrom('a', 'b') });
  const site = fc.dictionary(fc.constantFrom('1', '2', '3', '4'), node, { maxKeys: 4 });
  type Site = Readonly<Record<string, { ip: string; vars: string; profile: string }>>;
  const textOf = (found: Site): Record<string, string> =>
    Object.fromEntries(['a', 'b'].map((name) => [name, `image: debian-k0s\nvars: { of: ${name} }\nnodes: {${Object.entries(found).filter(([, { profile }]) => profile === name).map(([at, { ip, vars }]) => ` n${at}: { macs: ["52:54:00:00:00:0${at}"]${ip.replace('IP', `1${at}`)}${vars} }`).join(',')} }\n`]));
  await fc.assert(
    fc.asyncProperty(site, site, async (one: Site, other: Site) => {
      expect(await planned(textOf(one), textOf(one))).toMatchObject({ changes: false, nodes: [], updates: [], withoutNodes: [], quirks: false });
      const differing = ['1', '2', '3', '4'].filter((at) => JSON.stringify(one[at]) !== JSON.stringify(other[at]) && (one[at] || other[at]));
      const found = await planned(textOf(one), textOf(other));
      expect(found.nodes.map(({ name }) => name)).toEqual(differing.map((at) => `n${at}`));
      expect(found.changes).toBe(differing.length > 0);
    }),
    { numRuns: 30 },
  );
});
