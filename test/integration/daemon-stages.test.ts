// Stages are what was seen: every piece of evidence is taken away in turn, and just its stage is missing.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ip4ToNumber } from '../../src/addr.ts';
import { createMachine, createRelay, type Machine, type Relay } from './machine.ts';
import { startWorld, type World } from './world.ts';

let world: World;
let relay: Relay;

beforeAll(async () => {
  world = await startWorld();
  relay = await createRelay();
});
afterAll(async () => {
  await relay?.close();
  await world?.stop();
});

/** What a chain of firmware does, as data: each act is the evidence of the stages beside it. */
interface Act {
  readonly evidence: string;
  readonly stages: readonly string[];
  readonly run: (walk: Walk) => Promise<unknown>;
  /** Without it nothing after it can happen either. */
  readonly gate?: boolean;
}

interface Walk {
  readonly machine: Machine;
  boot?: string;
  token?: string;
}

const report = (stage: string): Act['run'] => ({ machine, boot, token }) =>
  machine.http('POST', `/boots/${boot}/report?stage=${stage}&state=ok`, { headers: { authorization: `Bearer ${token}` } });

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
  {
    evidence: 'the initrd stage enrols',
    stages: [],
    gate: true,
    async run(walk) {
      const answer = await walk.machine.http('POST', '/enrol', { body: `mac ${walk.machine.mac}\n` });
      walk.token = /^token ([0-9a-f]{64})$/m.exec(answer.text)![1]!;
    },
  },
  { evidence: 'the config is read', stages: ['config'], run: ({ machine, boot, token }) => machine.http('GET', `/boots/${boot}/config`, { headers: { authorization: `Bearer ${token}` } }) },
  { evidence: 'the initrd stage reports its root', stages: ['root'], run: report('root') },
  { evidence: 'the agent reports userspace', stages: ['userspace'], run: report('userspace') },
  { evidence: 'a step is reported', stages: ['step:10-storage'], run: report('step:10-storage') },
  { evidence: 'the agent reports ready', stages: ['ready'], run: report('ready') },
];

const chains: Readonly<Record<string, readonly Act[]>> = {
  'BIOS, iPXE in the card': [{ evidence: 'the iPXE does DORA', stages: ['discover', 'offer', 'lease'], gate: true, run: ({ machine }) => machine.dora('ipxe') }, ...fromScript],
  'BIOS, PXE ROM': [
    { evidence: 'the ROM does DORA', stages: ['discover', 'offer', 'lease'], gate: true, run: ({ machine }) => machine.dora('rom') },
    {
      evidence: 'the loader is fetched',
      stages: ['loader'],
      gate: true,
      async run({ machine }) {
        await machine.tftp('undionly.kpxe');
        // A real one needs a while to start; here the next DISCOVER could overtake the last ACK of the transfer.
        await expect.poll(async () => (await newestStages()).includes('loader')).toBe(true);
      },
    },
    { evidence: 'the loader does DORA', stages: [], run: ({ machine }) => machine.dora('ipxe') },
    ...fromScript,
  ],
};

async function walkThrough(acts: readonly Act[], without?: Act): Promise<readonly string[]> {
  const machine = createMachine(relay, world.macs.n1, world.httpPort);
  // Each walk is a machine that was switched on anew: its last boot is over, and its address known from the lease.
  machine.pretend(world.ips.n1);
  await world.endOpenBoot('n1');
  const walk: Walk = { machine };
  for (const act of acts) if (act !== without) await act.run(walk);
  return newestStages();
}

async function newestStages(): Promise<readonly string[]> {
  const { boots } = await world.api<{ boots: { stages: { name: string }[] }[] }>('/api/boots?node=n1&limit=1');
  return boots[0]!.stages.map((stage) => stage.name);
}

describe.each(Object.entries(chains))('%s', (_chain, acts) => {
  const expected = acts.flatMap((act) => act.stages);

  it('shows every stage in order', async () => {
    expect(await walkThrough(acts)).toEqual(expected);
  });

  it.each(acts.filter((act) => !act.gate && act.stages.length > 0))('unless $evidence: no stage $stages', async (act) => {
    const missing = await walkThrough(acts, act);
    expect(missing).toEqual(expected.filter((stage) => !act.stages.includes(stage)));
  });
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
