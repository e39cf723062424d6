// What each generation changed, and what became of one node: over a real database, as the daemon writes it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Node } from '../../src/boot/node.ts';
import type { BootSet, Generation } from '../../src/boot/profile.ts';
import { digestOfBytes, digestOfValue } from '../../src/digest.ts';
import { diffGenerations } from '../../src/generation-diff.ts';
import { changesWords, nodeHistory, refusedReload, siteHistory } from '../../src/history.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore, type EventStore } from '../../src/store/events.ts';
import { createNodeStore, type NodeStore } from '../../src/store/nodes.ts';
import { bootSet, nodeNamed, NOW } from './boot-world.ts';

const [A, B, C] = ['52:54:00:00:00:0a', '52:54:00:00:00:0b', '52:54:00:00:00:0c'];
const quiet: BootSet = { ...bootSet, cmdline: ['quiet'] };

/** `{ web: bootSet, disk: undefined }` and nodes of these profiles. */
function generation(sets: Readonly<Record<string, BootSet | undefined>>, nodes: readonly Node[], more: Partial<Generation> = {}): Generation {
  const profiles = Object.fromEntries(Object.entries(sets).map(([name, set]) => [name, { name, ...(set ? { bootSet: digestOfValue(set) } : {}) }]));
  const bootSets = Object.fromEntries(Object.values(sets).flatMap((set) => (set ? [[digestOfValue(set), set]] : [])));
  const content = { profiles, bootSets, nodes: Object.fromEntries(nodes.map((node) => [node.name, node])), nodeByMac: {}, nodeByIp: {}, ...more };
  return { id: digestOfValue(content), ...content };
}

const node = (name: string, profile: string, mac: string, more: Partial<Node> = {}): Node => nodeNamed(name, { profile, macs: [mac], ...more });

describe('diffGenerations', () => {
  const before = generation({ web: bootSet, old: bootSet, disk: undefined }, [node('n1', 'web', A), node('n2', 'web', B), node('n3', 'old', C)]);

  test('nothing changed is nothing', () => {
    expect(diffGenerations(before, before)).toEqual({ profiles: [], added: [], removed: [], moved: [], edited: [], quirks: false });
  });

  test('profiles and nodes by name; nodes that move alike are one move, with what it changes for them', () => {
    const after = generation({ web: quiet, disk: undefined, new: bootSet }, [node('n1', 'disk', A), node('n2', 'disk', B, { ip: '10.77.0.99', vars: { a: 'b' } }), node('n4', 'new', C)], { quirks: [] });
    const image = `debian-k0s@${digestOfBytes('image')}`;
    const changes = diffGenerations(before, after);
    expect(changes).toEqual({
      profiles: [
        { name: 'new', was: 'added', changes: [] },
        { name: 'old', was: 'removed', changes: [] },
        { name: 'web', was: 'changed', changes: [{ what: 'cmdline', from: 'console=ttyS0', to: 'quiet', needs: 'reboot' }] },
      ],
      added: ['n4'],
      removed: ['n3'],
      moved: [{ from: 'web', to: 'disk', nodes: ['n1', 'n2'], changes: [{ what: 'boot', from: image, to: 'local', needs: 'reboot' }] }],
      edited: [{ node: 'n2', keys: ['ip', 'vars'] }],
      quirks: false,
    });
    expect(changesWords(changes)).toBe('profile new added; profile old removed; profile web: cmdline console=ttyS0 -> quiet; node n4 added; node n3 removed; nodes n1, n2 moved from web to disk; node n2: ip, vars');
  });

  test('the first one adds everything, and long lists are cut for people', () => {
    const many = generation({ web: bootSet }, Array.from({ length: 7 }, (_, index) => node(`m${index}`, 'web', `52:54:00:00:01:0${index}`)));
    expect(diffGenerations(undefined, many)).toMatchObject({ added: ['m0', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6'], profiles: [{ name: 'web', was: 'added' }] });
    expect(changesWords(diffGenerations(undefined, many))).toBe('profile web added; nodes m0, m1, m2, m3, m4 and 2 more added');
  });

  test('the order of keys is no edit; of a list it is one', () => {
    const [a, b] = [node('n1', 'web', A, { labels: { x: '1', y: '2' }, macs: [A, B] }), node('n1', 'web', A, { labels: { y: '2', x: '1' }, macs: [A, B] })];
    const edited = (to: Node) => diffGenerations(generation({ web: bootSet }, [a]), generation({ web: bootSet }, [to])).edited;
    expect(edited(b)).toEqual([]);
    expect(edited({ ...b, macs: [B, A] })).toEqual([{ node: 'n1', keys: ['macs'] }]);
    expect(edited({ ...b, labels: { x: '1', z: '2' } })).toEqual([{ node: 'n1', keys: ['labels'] }]);
  });

  test('quirks of the operators', () => {
    expect(diffGenerations(before, { ...before, quirks: [{ name: 'x', match: {}, send: {} } as never] }).quirks).toBe(true);
  });
});

describe('history', () => {
  let dir: string;
  let database: Database;
  let nodes: NodeStore;
  let boots: BootStore;
  let events: EventStore;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'rackseed-history-'));
    database = openDatabase(join(dir, 'rackseed.db'));
    [nodes, boots, events] = [createNodeStore(database), createBootStore(database), createEventStore(database)];
  });
  afterEach(async () => {
    await database.close();
    rmSync(dir, { recursive: true });
  });

  const first = generation({ web: bootSet, db: quiet }, [node('n1', 'web', A, { macs: [A, B] })]);
  const edited = generation({ web: { ...bootSet, vars: { zone: 'b' } }, db: quiet }, [node('n1', 'web', A, { macs: [A, B] })]);
  const moved = generation({ web: { ...bootSet, vars: { zone: 'b' } }, db: quiet }, [node('n1', 'db', A, { macs: [A, C] })]);
  const gone = generation({ db: quiet }, []);

  test('generations newest first, refused readings among them, with what each changed', async () => {
    await nodes.assign(first, 'start', NOW);
    await events.add(refusedReload(Array.from({ length: 25 }, (_, index) => ({ file: 'boot-profiles/a.yaml', line: index + 1, column: 1, message: 'unknown key x' })), 'edit', NOW + 1));
    await nodes.assign(edited, 'edit', NOW + 2);
    // A restart with the same is no generation.
    await nodes.assign(edited, 'start', NOW + 3);
    const { generations } = await siteHistory({ nodes, events }, 10);
    expect(generations).toMatchObject([
      { at: NOW + 2, outcome: 'swapped', who: 'edit', generation: edited.id, changes: { profiles: [{ name: 'web', changes: [{ what: 'vars.zone', from: 'a', to: 'b', needs: 'steps' }] }], added: [] } },
      { at: NOW + 1, outcome: 'refused', who: 'edit', count: 25 },
      { at: NOW, outcome: 'swapped', who: 'start', generation: first.id, changes: { added: ['n1'] } },
    ]);
    expect(generations[1]).toMatchObject({ faults: { length: 20, 0: 'boot-profiles/a.yaml:1:1: unknown key x' } });
    expect((await siteHistory({ nodes, events }, 2)).generations.map(({ at }) => at)).toEqual([NOW + 2, NOW + 1]);
  });

  test("a node's assignments and boots, newest first: an edit of its profile, a move with another card, its end", async () => {
    for (const [index, one] of [first, edited, moved, gone].entries()) await nodes.assign(one, 'edit', NOW + index * 10);
    await boots.start({ id: 'B1', node: 'n1', mac: A, profile: 'web', generation: first.id, startedAt: NOW + 5 });
    await boots.fixBootSet('B1', digestOfValue(bootSet), bootSet, { profile: 'web', generation: first.id });
    await boots.end('B1', 'failed', NOW + 7, 'no disk');
    const { entries } = await nodeHistory('n1', { nodes, boots }, 50);
    const by = { who: 'edit' };
    expect(entries).toEqual([
      { at: NOW + 30, kind: 'assigned', ...by, generation: gone.id, from: 'db', changes: [], edited: [] },
      { at: NOW + 20, kind: 'assigned', ...by, generation: moved.id, from: 'web', to: 'db', changes: [{ what: 'cmdline', from: 'console=ttyS0', to: 'quiet', needs: 'reboot' }, { what: 'vars.zone', from: 'b', to: 'a', needs: 'steps' }], edited: ['macs'] },
      { at: NOW + 10, kind: 'assigned', ...by, generation: edited.id, from: 'web', to: 'web', changes: [{ what: 'vars.zone', from: 'a', to: 'b', needs: 'steps' }], edited: [] },
      { at: NOW + 5, kind: 'boot', boot: 'B1', state: 'failed', why: 'no disk', endedAt: NOW + 7, profile: 'web', generation: first.id, image: { name: 'debian-k0s', digest: bootSet.image.digest }, commit: 'c'.repeat(40) },
      { at: NOW, kind: 'assigned', ...by, generation: first.id, to: 'web', changes: [], edited: [] },
    ]);
  });

  test('a card that is taken out is an edit of the node, and not its end', async () => {
    await nodes.assign(first, 'start', NOW);
    await nodes.assign(generation({ web: bootSet, db: quiet }, [node('n1', 'web', A)]), 'edit', NOW + 1);
    expect((await nodeHistory('n1', { nodes, boots }, 10)).entries).toMatchObject([{ from: 'web', to: 'web', changes: [], edited: ['macs'] }, { to: 'web' }]);
  });

  test('what an older rackseed wrote has its assignments, and no changes', async () => {
    await nodes.assign(first, 'start', NOW);
    await nodes.assign(moved, 'edit', NOW + 1);
    await database.write((sqlite) => void sqlite.exec('UPDATE generations SET changes = NULL'));
    expect((await siteHistory({ nodes, events }, 10)).generations.map((entry) => 'changes' in entry)).toEqual([false, false]);
    expect((await nodeHistory('n1', { nodes, boots }, 10)).entries).toMatchObject([{ from: 'web', to: 'db', changes: [] }, { to: 'web' }]);
    // Its row is not there any more.
    await database.write((sqlite) => void sqlite.exec('DELETE FROM generations WHERE at = ' + String(NOW)));
    expect((await nodeHistory('n1', { nodes, boots }, 10)).entries).toMatchObject([{ from: 'web', to: 'db' }, { to: 'web', at: NOW }]);
  });
});
