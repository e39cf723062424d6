// Whether a node runs what is assigned to it: every state, by the rule and over real stores.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { changesBetween, driftOf, driftWord, type DriftView } from '../../src/boot-drift.ts';
import type { BootSet, Generation } from '../../src/boot/profile.ts';
import { digestOfValue } from '../../src/digest.ts';
import { createDrift } from '../../src/drift.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { bootSet, bootSetDigest, generationOf, nodeNamed, NOW } from './boot-world.ts';

const withCmdline: BootSet = { ...bootSet, cmdline: ['quiet'] };
const withVars: BootSet = { ...bootSet, vars: { zone: 'b' } };
const withBoth: BootSet = { ...withCmdline, vars: { zone: 'b' } };

describe('driftOf', () => {
  const state = (view: Partial<DriftView>, to: BootSet = bootSet) =>
    driftOf({ newest: 'ready', running: bootSetDigest, assigned: digestOfValue(to), toDisk: false, ...view }, (running, assigned) => changesBetween(running, assigned, bootSet, to));

  test.each<[string, string, BootSet]>([
    ['what is assigned runs', '-', bootSet],
    ['only a reboot brings another command line', 'reboot', withCmdline],
    ['steps bring other variables', 'steps', withVars],
    ['both may be pending', 'reboot+steps', withBoth],
  ])('%s: %s', (_what, word, to) => {
    expect(driftWord(state({}, to))).toBe(word);
  });

  test.each<[string, Partial<DriftView>]>([
    ['it never booted', { newest: undefined, running: undefined }],
    ['a boot is under way', { newest: 'open' }],
    ['its newest boot did not get ready', { newest: 'failed', running: undefined }],
    ['its newest boot did not get ready', { newest: 'unfinished' }],
    ['it starts from its own disk, which nobody sees', { assigned: undefined }],
    ['it starts from its own disk, which nobody sees', { toDisk: true }],
  ])('unknown, and no drift: %s', (why, view) => {
    expect(state(view, withBoth)).toEqual({ state: 'unknown', rebootPending: false, stepsPending: false, changes: [], why });
  });

  test('a boot set whose content is gone is unknown, and one that reads the same under another digest waits for a reboot', () => {
    const view: DriftView = { newest: 'ready', running: bootSetDigest, assigned: 'sha256:x', toDisk: false };
    expect(driftOf(view, (a, b) => changesBetween(a, b, undefined, bootSet))).toMatchObject({ state: 'unknown', why: 'what it runs is not kept' });
    expect(driftOf(view, (a, b) => changesBetween(a, b, bootSet, bootSet))).toMatchObject({ state: 'drift', rebootPending: true, stepsPending: false });
  });
});

describe('drift over the stores', () => {
  let dir: string;
  let database: Database;
  let boots: BootStore;
  let generation: Generation;
  const NAMES = ['n1', 'n2', 'n3', 'n4'];
  const assign = (set: BootSet) => {
    const id = digestOfValue(set);
    generation = { ...generation, profiles: { ...generation.profiles, 'k0s-single': { name: 'k0s-single', bootSet: id } }, bootSets: { [id]: set } };
  };
  const boot = async (id: string, node: string, set = bootSet) => {
    await boots.start({ id, node, mac: '52:54:00:00:00:01', profile: 'k0s-single', generation: generation.id, startedAt: NOW });
    await boots.fixBootSet(id, digestOfValue(set), set, { profile: 'k0s-single', generation: generation.id });
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-drift-'));
    database = openDatabase(join(dir, 'rackseed.db'));
    boots = createBootStore(database);
    generation = generationOf(...NAMES.map((name) => nodeNamed(name)));
  });
  afterEach(async () => {
    await database.close();
    rmSync(dir, { recursive: true });
  });

  test('figures count a node that waits for both in both, and one that is unknown in neither', async () => {
    const drift = createDrift({ generation: () => generation, boots });
    expect(await drift.figures()).toEqual({ rebootPending: 0, stepsPending: 0, unknown: 4 });
    for (const name of ['n1', 'n2', 'n3']) await boot(`${name}-1`, name);
    await boots.end('n1-1', 'ready', NOW + 1);
    await boots.end('n2-1', 'ready', NOW + 1);
    await boots.end('n3-1', 'failed', NOW + 1, 'no disk');
    expect(await drift.figures()).toEqual({ rebootPending: 0, stepsPending: 0, unknown: 2 });
    assign(withVars);
    expect(await drift.figures()).toEqual({ rebootPending: 0, stepsPending: 2, unknown: 2 });
    assign(withBoth);
    expect(await drift.figures()).toEqual({ rebootPending: 2, stepsPending: 2, unknown: 2 });
    // On its way to what is assigned; what it ran is over.
    await boot('n1-2', 'n1', withBoth);
    expect(await drift.figures()).toEqual({ rebootPending: 1, stepsPending: 1, unknown: 3 });
    await boots.end('n1-2', 'ready', NOW + 2);
    expect(await drift.figures()).toEqual({ rebootPending: 1, stepsPending: 1, unknown: 2 });
    await boots.say('n2', 'local');
    expect(await drift.figures()).toEqual({ rebootPending: 0, stepsPending: 0, unknown: 3 });
  });

  test('of one node: the changes from what it runs, though no generation has that any more', async () => {
    const drift = createDrift({ generation: () => generation, boots });
    await boot('n1-1', 'n1');
    await boots.end('n1-1', 'ready', NOW + 1);
    assign(withCmdline);
    const [newest] = await boots.list({ node: 'n1', limit: 1 });
    expect(await drift.of(generation.nodes['n1']!, await boots.history('n1'), newest?.state)).toEqual({
      state: 'drift',
      rebootPending: true,
      stepsPending: false,
      changes: [{ what: 'cmdline', from: 'console=ttyS0', to: 'quiet', needs: 'reboot' }],
    });
  });
});
