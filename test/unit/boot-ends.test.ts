// What becomes of a node by what it reports, against the real store: reports that come twice, and words that are said meanwhile.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createBootEnds, type BootEnds } from '../../src/boot-ends.ts';
import { createLog } from '../../src/log.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore, type EventStore } from '../../src/store/events.ts';
import { bootSet, bootSetDigest, nodeNamed, NOW } from './boot-world.ts';

let dir: string;
let db: Database;
let boots: BootStore;
let events: EventStore;
let ends: BootEnds;
let logged: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'boot-ends-'));
  db = openDatabase(join(dir, 'rackseed.db'));
  [boots, events, logged] = [createBootStore(db), createEventStore(db), ''];
  ends = createBootEnds({ boots, events, log: createLog('info', { write: (line: string) => void (logged += line) }), now: () => NOW });
});
afterEach(async () => {
  await db.close();
  rmSync(dir, { recursive: true });
});

const n1 = nodeNamed('n1', { next: 'boot-once' });
const READY = { stage: 'ready', state: 'ok', detail: {} } as const;

async function running() {
  await boots.start({ id: 'b1', node: 'n1', mac: n1.macs[0]!, profile: 'p', generation: bootSetDigest, startedAt: NOW });
  return boots.fixBootSet('b1', bootSetDigest, bootSet, { profile: 'p', generation: bootSetDigest });
}
const used = async (): Promise<number> => (await events.list({ kind: 'boot-once-used', limit: 10 })).length;

it('a boot-once is used up once by an agent that says ready twice at once, and the boot ends once', async () => {
  const boot = await running();
  expect(await Promise.all([ends.report(boot, n1, READY), ends.report(boot, n1, READY)])).toEqual([undefined, undefined]);
  expect(await boots.history('n1')).toMatchObject({ next: 'local' });
  expect(await used()).toBe(1);
  expect(logged.match(/boot ended/g)).toHaveLength(1);
});

it('what an operator says while the boot runs is not used up by it', async () => {
  const boot = await running();
  await boots.say('n1', 'boot-once');
  await ends.report(boot, n1, READY);
  expect(await boots.history('n1')).toMatchObject({ next: 'boot-once', running: bootSetDigest });
  expect(await used()).toBe(0);
});

it('nor at the very moment of its ready', async () => {
  const boot = await running();
  await Promise.all([ends.report(boot, n1, READY), boots.see('b1', { name: 'userspace', state: 'ok', at: NOW }).then(() => boots.say('n1', 'netboot'))]);
  expect(await boots.history('n1')).toMatchObject({ next: 'netboot' });
  expect(await used()).toBe(0);
  expect(logged).not.toContain('used up');
  expect(logged.match(/boot ended/g)).toHaveLength(1);
});
