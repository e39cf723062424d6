// No ACK leaves before its lease is on the disk: by strace, and by replaying what was on the disk for sure at each sync.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BuiltTree } from '../built-tree.ts';
import { seededRandom } from '../mutate.ts';
import { compileJournal, replay, type Replayed } from './journal.ts';
import { buildDaemon, openSite, type Site } from './site.ts';
import { orderOf, straceTo, type Order } from './trace.ts';
import { openCrowd, type Crowd } from './traffic.ts';

const ACKS = 1_500;
const TRACED_ACKS = 300;
const TORN = 40;

/** What a careless change would do; each must be found. */
const CARELESS: readonly [what: string, file: string, from: string, to: string][] = [
  ['no sync at each commit', 'store/db.js', 'await syncer.sync();', ''],
  ['an ACK that does not wait for its commit', 'dhcp/responder.js', 'const taken = await take(wanted, ip);', "setTimeout(() => void take(wanted, ip), 20); const taken = 'yes';"],
];

let tree: BuiltTree;
const trees = new Map<string, BuiltTree>();
let site: Site | undefined;
let crowd: Crowd | undefined;

beforeAll(() => {
  tree = buildDaemon();
});
afterAll(() => {
  for (const one of [tree, ...trees.values()]) one?.remove();
});
afterEach(async () => {
  await crowd?.close();
  await site?.remove();
});

function buildCareless([what, file, from, to]: (typeof CARELESS)[number]): BuiltTree {
  const built = trees.get(what);
  if (built) return built;
  let found = false;
  const careless = buildDaemon((name, text) => {
    if (name !== file) return text;
    found = text.includes(from);
    return text.replace(from, to);
  });
  trees.set(what, careless);
  expect(found, `${what}: ${file} has the line that is changed`).toBe(true);
  return careless;
}

async function journalled(of: BuiltTree, acks: number, core: boolean): Promise<Replayed> {
  site = await openSite(of);
  await site.fill(0);
  const first = join(site.dir, 'first.db');
  copyFileSync(site.database, first);
  const journal = join(site.dir, 'journal');
  const daemon = await site.start({ core, wrap: ['env', `LD_PRELOAD=${compileJournal(site.dir)}`, `JOURNAL=${journal}`] });
  crowd = await openCrowd({ machines: 400, seed: 3, releases: 0 });
  await crowd.acks(acks, 8);
  await daemon.end('SIGKILL');
  expect(crowd.wrongs).toEqual([]);
  return replay(journal, first, join(site.dir, 'copies'), crowd.sentAt, seededRandom(4), TORN);
}

async function traced(of: BuiltTree, acks: number, core: boolean): Promise<Order> {
  site = await openSite(of);
  await site.fill(0);
  const trace = join(site.dir, 'trace');
  const daemon = await site.start({ core, wrap: straceTo(trace) });
  crowd = await openCrowd({ machines: 400, seed: 3 });
  await crowd.acks(acks, 8);
  await daemon.end('SIGKILL');
  // The tracer's last word on its last thread.
  await expect.poll(() => readFileSync(trace, 'latin1').includes(`${daemon.child.pid} `) && /\+\+\+ killed by SIGKILL \+\+\+\n$/.test(readFileSync(trace, 'latin1').slice(-200)), { timeout: 30_000 }).toBe(true);
  expect(crowd.wrongs).toEqual([]);
  return orderOf(readFileSync(trace, 'latin1'));
}

describe('what strace sees', () => {
  it('no ACK leaves before the WAL was written and synced, after its REQUEST came in', { timeout: 300_000 }, async () => {
    const order = await traced(tree, TRACED_ACKS, false);
    console.log(`strace: ${order.acks} ACKs, ${order.commits} commits`);
    expect(order.early).toEqual([]);
    expect(order.acks).toBeGreaterThanOrEqual(TRACED_ACKS);
    expect(order.commits).toBeGreaterThan(20);
  });

  it.each(CARELESS)('%s is found: the test can tell', { timeout: 300_000 }, async (...careless) => {
    const { early } = await traced(buildCareless(careless), 100, true);
    expect(early.length).toBeGreaterThan(0);
    console.log(`strace, ${careless[0]}: ${early.length} early, such as ${early[0]}`);
  });
});

describe('the copy of database and WAL at each sync', () => {
  it('holds, replayed, every ACK that left before the next one; and so does one with any part of what was written and not synced', { timeout: 300_000 }, async () => {
    const replayed = await journalled(tree, ACKS, false);
    console.log(`journal: ${replayed.acks} ACKs, ${replayed.copies} copies, ${replayed.checkpoints} checkpoints, ${replayed.torn} torn copies`);
    expect(replayed.broken).toEqual([]);
    expect(replayed.acks).toBeGreaterThanOrEqual(ACKS);
    expect(replayed.copies).toBeGreaterThan(50);
    // One of the start, and others in the middle of it all.
    expect(replayed.checkpoints).toBeGreaterThan(1);
    expect(replayed.torn).toBeGreaterThan(TORN / 2);
  });

  it.each(CARELESS)('%s is found: the test can tell', { timeout: 300_000 }, async (...careless) => {
    const { broken } = await journalled(buildCareless(careless), 100, true);
    expect(broken.filter((line) => line.startsWith('copy')).length).toBeGreaterThan(0);
    console.log(`journal, ${careless[0]}: ${broken.length} broken, such as ${broken[0]}`);
  });
});
