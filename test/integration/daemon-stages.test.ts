// Stages are what was seen: each piece of evidence is taken away in turn, and just its stage is missing; where nothing can follow without it,
// all that comes after is missing too.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ip4ToNumber } from '../../src/addr.ts';
import { expectedStages, type Chain } from '../../src/boot/timeline.ts';
import type { Packet } from '../../src/dhcp/packet.ts';
import { bootFileOf, createMachine, createRelay, type Kind, type Machine, type Relay } from './machine.ts';
import { PROFILE, startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;

// n3 has no address and there is no pool: what it asks for is seen, and not offered. n4's loader makes the UKI a part of the boot set.
const startWith = async (mode: 'full' | 'proxy'): Promise<void> => {
  world = await startWorld({ mode, pool: null, profiles: { 'k0s-single.yaml': `${PROFILE}  n3: { macs: ["52:54:00:00:00:03"] }\n  n4: { macs: ["52:54:00:00:00:04"], loader: uki }\n` } });
};
beforeAll(async () => void (relay = await createRelay()));
afterAll(() => relay?.close());

/** What a chain of firmware does, as data: each act is the evidence of the stages beside it. */
interface Act {
  readonly evidence: string;
  readonly stages: readonly string[];
  readonly run: (walk: Walk) => Promise<unknown>;
  /** Without it nothing after it can happen either: the walk ends here. */
  readonly gate?: boolean;
}

interface Walk {
  readonly machine: Machine;
  offer?: Packet;
  boot?: string;
  token?: string;
}

const report = (stage: string): Act['run'] => ({ machine, boot, token }) =>
  machine.http('POST', `/boots/${boot}/report?stage=${stage}&state=ok`, { headers: { authorization: `Bearer ${token}` } });

const dashes = ({ mac }: Machine): string => mac.replaceAll(':', '-');

const enrolled: readonly Act[] = [
  {
    evidence: 'the initrd stage enrols',
    stages: [],
    gate: true,
    async run(walk) {
      const answer = await walk.machine.http('POST', '/enrol', { body: `mac ${walk.machine.mac}\n` });
      walk.boot = /^boot (\w+)$/m.exec(answer.text)![1]!;
      walk.token = /^token ([0-9a-f]{64})$/m.exec(answer.text)![1]!;
    },
  },
  { evidence: 'the config is read', stages: ['config'], run: ({ machine, boot, token }) => machine.http('GET', `/boots/${boot}/config`, { headers: { authorization: `Bearer ${token}` } }) },
  { evidence: 'the initrd stage reports its root', stages: ['root'], run: report('root') },
  { evidence: 'the agent reports userspace', stages: ['userspace'], run: report('userspace') },
  { evidence: 'a step is reported', stages: ['step:10-storage'], run: report('step:10-storage') },
  { evidence: 'the agent reports ready', stages: ['ready'], run: report('ready') },
];

const fromScript: readonly Act[] = [
  {
    evidence: 'the script is fetched',
    stages: ['script'],
    gate: true,
    async run(walk) {
      const script = await walk.machine.http('GET', `/script/${walk.machine.mac}`);
      walk.boot = /rackseed\.boot=(\w+)/.exec(script.text)![1]!;
    },
  },
  { evidence: 'the kernel is fetched to its last byte', stages: ['kernel'], run: ({ machine, boot }) => machine.http('GET', `/blobs/sha256/${world.image.kernel.digest.slice(7)}?boot=${boot}`) },
  { evidence: 'the initrd is fetched to its last byte', stages: ['initrd'], run: ({ machine, boot }) => machine.http('GET', `/blobs/sha256/${world.image.initrds[0]!.digest.slice(7)}?boot=${boot}`) },
  ...enrolled,
];

/** GRUB stays with the protocol that it came by. */
const fromGrub = (fetched: (machine: Machine, path: string) => Promise<string>, files: (walk: Walk) => { readonly kernel: string; readonly initrd: string }): readonly Act[] => [
  {
    evidence: 'the node\'s grub.cfg is fetched',
    stages: ['script'],
    gate: true,
    async run(walk) {
      expect(await fetched(walk.machine, '/grub/grub.cfg')).toContain('source /$net_default_mac/grub.cfg');
      const cfg = await fetched(walk.machine, `/${walk.machine.mac}/grub.cfg`);
      walk.boot = /rackseed\.boot=(\w+)/.exec(cfg)![1]!;
      expect(cfg).toContain(`if linux '${files(walk).kernel}' `);
      expect(cfg).toContain(`if initrd '${files(walk).initrd}';`);
    },
  },
  { evidence: 'the kernel is fetched to its last byte', stages: ['kernel'], run: (walk) => fetched(walk.machine, files(walk).kernel) },
  { evidence: 'the initrd is fetched to its last byte', stages: ['initrd'], run: (walk) => fetched(walk.machine, files(walk).initrd) },
  ...enrolled,
];
const byTftp = async (machine: Machine, path: string): Promise<string> => Buffer.from(await machine.tftp(path)).toString();
const byHttp = async (machine: Machine, path: string): Promise<string> => {
  const { status, text } = await machine.http('GET', path);
  expect([path, status]).toEqual([path, 200]);
  return text;
};
/** By TFTP one file of the node; by HTTP the blobs themselves. */
const ownFiles = ({ machine }: Walk) => ({ kernel: `/${dashes(machine)}/kernel`, initrd: `/${dashes(machine)}/initrd` });
const blobFiles = ({ boot }: Walk) => ({ kernel: `/blobs/sha256/${world.image.kernel.digest.slice(7)}?boot=${boot}`, initrd: `/blobs/sha256/${world.image.initrds[0]!.digest.slice(7)}?boot=${boot}` });

/** The two halves of DORA; the OFFER between them is ours, and is taken away by itself below. */
const dora = (kind: Kind): readonly Act[] => [
  { evidence: `the ${kind} sends a DISCOVER`, stages: ['discover', 'offer'], gate: true, run: async (walk) => (walk.offer = (await walk.machine.discover(kind))!) },
  { evidence: `the ${kind} takes the OFFER`, stages: ['lease'], gate: true, run: ({ machine, offer }) => machine.request(kind, offer!) },
];

/** Beside another server: our OFFER has no address, and no lease is ours. */
const beside = (kind: Kind): readonly Act[] => [
  { evidence: `the ${kind} sends a DISCOVER`, stages: ['discover', 'offer'], gate: true, run: ({ machine }) => machine.discover(kind) },
  { evidence: `the ${kind} takes the other server's OFFER`, stages: [], gate: true, run: ({ machine }) => machine.takeElsewhere(kind, world.ips.n1, '127.0.0.2') },
];

const loaded = (fetchIt: Act['run']): Act => ({
  evidence: 'the loader is fetched',
  stages: ['loader'],
  gate: true,
  async run(walk) {
    await fetchIt(walk);
    // A real one needs a while to start; here the next DISCOVER could overtake the last ACK of the transfer.
    await expect.poll(async () => (await newestStages()).includes('loader')).toBe(true);
  },
});
const again = (kind: Kind): Act => ({ evidence: 'the loader does DORA', stages: [], run: ({ machine }) => machine.dora(kind) });
const besideAgain = beside('ipxe-uefi').map((act): Act => ({ ...act, stages: [] }));

/** A UKI's kernel is told nothing: its initrd stage asks DHCP, and the session says which boot it is. */
const fromUki = (fetchIt: Act['run']): readonly Act[] => [
  { evidence: 'the UKI is fetched to its last byte', stages: ['kernel'], gate: true, run: fetchIt },
  { evidence: 'the initrd stage does DORA', stages: [], run: ({ machine }) => machine.dora('initrd') },
  ...enrolled,
];

const chains: Readonly<Record<Chain, readonly Act[]>> = {
  'bios-ipxe': [...dora('ipxe'), ...fromScript],
  'bios-rom': [...dora('rom'), loaded(({ machine }) => machine.tftp('undionly.kpxe')), again('ipxe'), ...fromScript],
  'uefi-rom': [...dora('uefi'), loaded(({ machine }) => machine.tftp('snponly.efi')), again('ipxe-uefi'), ...fromScript],
  'uefi-http': [...dora('uefi-http'), loaded(({ machine }) => machine.http('GET', '/loaders/snponly.efi')), again('ipxe-uefi'), ...fromScript],
  'uefi-grub': [...dora('uefi'), loaded(({ machine }) => machine.tftp('snponly.efi')), ...fromGrub(byTftp, ownFiles)],
  'uefi-http-grub': [...dora('uefi-http'), loaded(({ machine }) => machine.http('GET', '/loaders/snponly.efi')), ...fromGrub(byHttp, blobFiles)],
  'uefi-uki': [...dora('uefi'), ...fromUki(({ machine }) => machine.tftp(`${machine.mac.replaceAll(':', '-')}/uki.efi`))],
  'uefi-http-uki': [...dora('uefi-http'), ...fromUki(({ machine }) => machine.http('GET', `/loaders/${machine.mac.replaceAll(':', '-')}/uki.efi`))],
  'bios-ipxe-proxy': [...beside('ipxe'), ...fromScript],
  'uefi-rom-proxy': [
    ...beside('uefi'),
    { evidence: 'the uefi asks port 4011', stages: [], run: async ({ machine }) => void expect(bootFileOf((await machine.bootServer('uefi'))!)).toBe('snponly.efi') },
    loaded(({ machine }) => machine.tftp('snponly.efi')),
    ...besideAgain,
    ...fromScript,
  ],
  'uefi-http-proxy': [...beside('uefi-http'), loaded(({ machine }) => machine.http('GET', '/loaders/snponly.efi')), ...besideAgain, ...fromScript],
};

async function walkThrough(acts: readonly Act[], without?: Act): Promise<readonly string[]> {
  const machine = createMachine(relay, world.macs.n1, world.httpPort);
  // Each walk is a machine that was switched on anew: its last boot is over, and its address known from the lease.
  machine.pretend(world.ips.n1);
  await world.endOpenBoot('n1');
  const walk: Walk = { machine };
  const before = await newestBoot();
  for (const act of acts) {
    if (act !== without) await act.run(walk);
    else if (act.gate) break;
  }
  const boot = await newestBoot();
  return boot && boot.id !== before?.id ? boot.stages.map((stage) => stage.name) : [];
}

async function newestBoot(node = 'n1') {
  return (await world.api<{ boots: { id: string; stages: { name: string }[] }[] }>(`/api/boots?node=${node}&limit=1`)).boots[0];
}

async function newestStages(node?: string): Promise<readonly string[]> {
  return (await newestBoot(node))!.stages.map((stage) => stage.name);
}

const walked = Object.entries(chains) as [Chain, readonly Act[]][];
const isProxied = ([chain]: [Chain, unknown]): boolean => chain.endsWith('-proxy');

function stagesOf(chain: Chain, acts: readonly Act[]): void {
  const expected = expectedStages(chain, ['10-storage']);

  it('every stage of the chain has an act that is its evidence', () => {
    expect(acts.flatMap((act) => act.stages)).toEqual(expected);
  });

  it('shows every stage in order', async () => {
    expect(await walkThrough(acts)).toEqual(expected);
  });

  it.each(acts.filter((act) => act.stages.length > 0))('unless $evidence: no stage $stages', async (act) => {
    const after = act.gate ? acts.slice(acts.indexOf(act)) : [act];
    const gone = after.flatMap(({ stages }) => stages);
    expect(await walkThrough(acts, act)).toEqual(expected.filter((stage) => !gone.includes(stage)));
  });
}

describe.each(['full', 'proxy'] as const)('%s mode', (mode) => {
  beforeAll(() => startWith(mode));
  afterAll(() => world?.stop());

  describe.each(walked.filter((one) => isProxied(one) === (mode === 'proxy')))('%s', stagesOf);

  if (mode === 'full') whatIsNotSeen();
});

function whatIsNotSeen(): void {
  it('a DISCOVER that we have no address for is seen, and no OFFER', async () => {
    expect(await createMachine(relay, '52:54:00:00:00:03', world.httpPort).discover('ipxe', 500)).toBeUndefined();
    expect(await newestStages('n3')).toEqual(['discover']);
  });

  it('an OFFER alone is no lease, and a DISCOVER of an unknown machine is nothing at all', async () => {
    await world.endOpenBoot('n1');
    const n1 = createMachine(relay, world.macs.n1, world.httpPort);
    const offer = await n1.discover('ipxe');
    expect(ip4ToNumber(offer!.yiaddr)).toBe(ip4ToNumber(world.ips.n1));
    expect(await newestStages()).toEqual(['discover', 'offer']);
    // A ROM that asks twice and never fetches its loader: two attempts at DHCP, no loader.
    await world.endOpenBoot('n1');
    await n1.dora('rom');
    await n1.dora('rom');
    expect(await newestStages()).toEqual(['discover', 'offer', 'lease']);
    const stranger = createMachine(relay, '52:54:00:99:99:99', world.httpPort);
    expect(await stranger.discover('rom', 500)).toBeUndefined();
  });
}
