// A running daemon keeps its generation through every kind of broken YAML, tells each fault, and takes the next good edit.
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { formatFault, type Fault } from '../../src/errors.ts';
import { BROKEN, broken, GOOD, KNOWN, type Broken } from '../unit/broken-profiles.ts';
import { startWorld, type World } from './world.ts';

interface Reload {
  readonly generation: string;
  readonly changed: boolean;
  readonly faults: readonly Fault[];
}

/** The table's profiles in the world's terms: its subnet is loopback's, its repository's steps are whatever is shipped, its artifact is v1. */
const fit = (text: string): string =>
  text
    .replaceAll('10.77.0.', '127.77.0.')
    .replace(/^postBoot: .*steps: k0s-single \}\n/m, '')
    .replaceAll(KNOWN.version, 'v1');

/** What the world cannot hold against a file: it has one subnet, 127.0.0.0/8, no router, and an image with a UKI. */
const fits = (entry: Broken): boolean => !/subnet|our own|router|broadcast address$|network address|postBoot|repository|ref|steps|uki of an image/.test(entry.what);

let world: World;
const put = (name: string, text: string) => writeFileSync(join(world.profilesDir, name), text);
const reload = () => world.api<Reload>('/api/reload', 'POST');

beforeAll(async () => {
  world = await startWorld({ profiles: Object.fromEntries(Object.entries(GOOD).map(([name, text]) => [name, fit(text)])) });
});
afterAll(() => world?.stop());

describe('reload', () => {
  test('at least fifty of the broken variants fit this world', () => {
    expect(BROKEN.filter(fits).length).toBeGreaterThanOrEqual(50);
  });

  test('no broken variant takes the generation away, each is told with its line, and mending it brings no other', async () => {
    const { generation } = await reload();
    for (const entry of BROKEN.filter(fits)) {
      for (const { file, text } of broken(entry, '')) put(file, fit(text));
      const swap = await reload();
      expect([entry.what, swap.changed, swap.generation]).toEqual([entry.what, false, generation]);
      expect(swap.faults.length, entry.what).toBeGreaterThan(0);
      for (const fault of swap.faults) expect(formatFault(fault), entry.what).toMatch(new RegExp(`^${world.profilesDir}/[ab]\\.yaml:\\d+:\\d+: \\S`));
    }
    for (const [name, text] of Object.entries(GOOD)) put(name, fit(text));
    expect(await reload()).toEqual({ generation, changed: false, faults: [] });
  });

  test('an edit is taken without being asked, a broken one is not, and the next good one is', async () => {
    const nodes = async () => (await world.api<{ nodes: { name: string; profile: string }[] }>('/api/nodes')).nodes.map(({ name, profile }) => `${name} ${profile}`).sort();
    const seen = (expected: string[]) => vi.waitFor(async () => expect(await nodes()).toEqual(expected), { timeout: 10_000, interval: 50 });
    const n3 = '  n3: { macs: [52:54:00:12:34:58], ip: 127.77.0.13 }\n';
    const withN3 = fit(GOOD['a.yaml']).replace(/^dhcpOptions:/m, `${n3}dhcpOptions:`);
    await seen(['n1 a', 'n2 a', 'n3 b']);

    put('a.yaml', withN3);
    await vi.waitFor(() => expect(world.log()).toContain('node n3 is taken'), { timeout: 10_000, interval: 50 });
    expect(await nodes()).toEqual(['n1 a', 'n2 a', 'n3 b']);

    put('b.yaml', 'boot: local\n');
    await seen(['n1 a', 'n2 a', 'n3 a']);

    rmSync(join(world.profilesDir, 'b.yaml'));
    put('c.yml', `boot: local\nnodes:\n${n3}`);
    put('a.yaml', fit(GOOD['a.yaml']));
    await seen(['n1 a', 'n2 a', 'n3 c']);
  });

  test('the directory may be taken away: the generation stays', async () => {
    const { generation } = await reload();
    rmSync(world.profilesDir, { recursive: true });
    const swap = await reload();
    expect([swap.changed, swap.generation, swap.faults.length]).toEqual([false, generation, 1]);
    expect((await world.api<{ nodes: unknown[] }>('/api/nodes')).nodes).toHaveLength(3);
  });
});
