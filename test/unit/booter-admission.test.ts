// The Booter and the image slots: who is held and who is not, what a ticket is good for, and what people see of a node that waits.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createAdmission, TELL_EVERY_MS } from '../../src/boot/admission.ts';
import type { BootDecision } from '../../src/boot/decide.ts';
import type { Generation } from '../../src/boot/profile.ts';
import type { BootRequest, Serve } from '../../src/boot/request.ts';
import { stageOf } from '../../src/boot/timeline.ts';
import { createBooter, type Answer, type Booter } from '../../src/booter.ts';
import { digestOfBytes } from '../../src/digest.ts';
import { createLog } from '../../src/log.ts';
import { createBootStore, type BootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createEventStore } from '../../src/store/events.ts';
import { createLeaseStore } from '../../src/store/leases.ts';
import { createNodeStore } from '../../src/store/nodes.ts';
import { bootSet, generationOf, nodeNamed, NOW } from './boot-world.ts';

const IMAGE = bootSet.image.squashfs.digest;
const macOf = (n: number) => `52:54:00:00:00:0${n}`;
const ipOf = (n: number) => `10.77.0.1${n}`;

let dir: string;
let database: Database;
let boots: BootStore;
let booter: Booter;
let generation: Generation;
let serve: Serve;
let at: number;
let logged: Record<string, unknown>[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-admission-'));
  database = openDatabase(join(dir, 'db'));
  boots = createBootStore(database);
  generation = generationOf(...[1, 2, 3].map((n) => nodeNamed(`n${n}`, { macs: [macOf(n)], ip: ipOf(n) })));
  [serve, at, logged] = ['known', NOW, []];
  booter = createBooter({
    generation: () => generation,
    nodes: createNodeStore(database),
    leases: createLeaseStore(database),
    boots,
    events: createEventStore(database),
    admission: createAdmission(1),
    serveAt: () => serve,
    log: createLog('info', { write: (line) => void logged.push(JSON.parse(line) as Record<string, unknown>) }),
    now: () => at,
  });
});
afterEach(async () => {
  await database.close();
  rmSync(dir, { recursive: true });
});

/** Node `n` boots as far as its script, so that its boot set is fixed; its boot's id. */
async function bootUp(n: number): Promise<string> {
  const discover: BootRequest = { via: 'dhcp', mac: macOf(n), asker: 'ipxe', arch: 'amd64', firmware: 'bios', features: ['http', 'bzimage'], message: 'discover' };
  const { boot } = await booter.ask(discover);
  await booter.leased(boot!.id, ipOf(n), macOf(n));
  await booter.ask({ via: 'http', mac: macOf(n), ip: ipOf(n), asker: 'ipxe', wants: 'script' });
  return boot!.id;
}

const askImage = (n: number, more: Partial<BootRequest> = {}): Promise<Answer> => booter.ask({ via: 'http', ip: ipOf(n), wants: 'image', blob: IMAGE, ...more });
const kinds = ({ decision, ticket }: Answer): readonly [BootDecision['kind'], boolean] => [decision.kind, ticket !== undefined];
const rootOf = async (bootId: string) => stageOf((await boots.get(bootId))!, 'root');

describe('an image', () => {
  it('is for as many nodes as there are slots; the next one is held, with its place and when to ask again', async () => {
    await bootUp(1);
    await bootUp(2);
    const first = await askImage(1);
    expect(kinds(first)).toEqual(['boot', true]);
    const second = await askImage(2);
    expect(second.decision).toEqual({ kind: 'hold', why: 'every image slot is taken: place 1', retryAfterS: expect.any(Number) as unknown, queue: { place: 1 } });
    expect(second.ticket).toBeUndefined();
    expect(structuredClone(second)).toEqual(second);

    at += 20_000;
    await booter.release(first.ticket!, 'whole');
    expect(kinds(await askImage(2))).toEqual(['boot', true]);
    const third = await askImage(3);
    expect(third.decision).toMatchObject({ kind: 'hold', why: 'every image slot is taken: place 1, about 20 s', queue: { place: 1, etaS: 20 } });
  });

  it('needs one slot a node, by whichever way the request names it, and also when the node starts over', async () => {
    const bootId = await bootUp(1);
    const tickets = [(await askImage(1, { bootId })).ticket];
    at += 120_000;
    expect(await bootUp(1)).not.toBe(bootId);
    tickets.push((await askImage(1)).ticket);
    expect(new Set(tickets).size).toBe(2);
    expect(tickets).not.toContain(undefined);
    // The connection before noticed that it is broken; the last one goes on.
    await booter.release(tickets[0]!, 'cut');
    expect(kinds(await askImage(2))).toEqual(['hold', false]);
  });

  it('is for two streams of a machine at a time, whatever connections it opens; more are told to wait, in words that its initrd stage waits for', async () => {
    const first = await askImage(1);
    expect(kinds(await askImage(1))).toEqual(['boot', true]);
    const third = await askImage(1);
    expect(third.ticket).toBeUndefined();
    expect(third.decision).toEqual({ kind: 'hold', why: 'this machine fetches as many images at once as it may', retryAfterS: expect.any(Number) as unknown, queue: { place: 1, ownStreams: true } });
    expect(structuredClone(third)).toEqual(third);
    expect(logged.filter(({ msg }) => msg === 'waiting for an image slot')).toEqual([]);
    await booter.release(first.ticket!, 'whole');
    expect(kinds(await askImage(1))).toEqual(['boot', true]);
  });

  it('that was cut comes before those who wait', async () => {
    const { ticket } = await askImage(1);
    await askImage(2);
    await booter.release(ticket!, 'cut');
    expect(kinds(await askImage(2))).toEqual(['hold', false]);
    expect(kinds(await askImage(1))).toEqual(['boot', true]);
  });

  it.each([
    ['kernel', bootSet.image.kernel.digest],
    ['initrd', bootSet.image.initrds[0]!.digest],
    ['artifact', bootSet.artifacts['k0s']!.digest],
  ])('has a %s that needs no slot', async (_what, blob) => {
    await askImage(1);
    expect(kinds(await askImage(2, { blob }))).toEqual(['boot', false]);
  });

  it('of a boot set that is in no generation any more has a kernel that needs no slot', async () => {
    await askImage(3);
    const bootId = await bootUp(1);
    generation = { ...generation, bootSets: {} };
    expect(kinds(await askImage(1, { bootId, blob: bootSet.image.kernel.digest }))).toEqual(['boot', false]);
    expect(kinds(await askImage(1, { bootId }))).toEqual(['hold', false]);
  });

  it('is not waited for by those who only ask what they boot', async () => {
    await askImage(1);
    expect(kinds(await booter.ask({ via: 'http', ip: ipOf(2) }))).toEqual(['boot', false]);
  });

  it('is refused to strangers without a slot, where only nodes are served', async () => {
    expect(kinds(await askImage(9, { ip: '10.77.0.99' }))).toEqual(['silent', false]);
    expect(kinds(await askImage(1))).toEqual(['boot', true]);
  });

  it('is for strangers, where they are served, when no node wants it', async () => {
    serve = 'any';
    const { ticket, decision } = await askImage(1);
    expect(decision.kind).toBe('boot');
    const outside = { ip: '10.77.0.99' };
    expect((await askImage(9, outside)).decision).toMatchObject({ kind: 'hold', queue: { place: 1 } });
    expect((await askImage(2)).decision).toMatchObject({ kind: 'hold', queue: { place: 1 } });
    await booter.release(ticket!, 'whole');
    expect((await askImage(9, outside)).decision).toMatchObject({ kind: 'hold', queue: { place: 2 } });
    const node = await askImage(2);
    expect(kinds(node)).toEqual(['boot', true]);
    await booter.release(node.ticket!, 'whole');
    expect((await askImage(9, outside)).ticket).toBeDefined();
  });
});

describe('a node that waits', () => {
  it('is seen in the log and in its boot once a minute, and when it has waited', async () => {
    const bootId = await bootUp(2);
    const { ticket } = await askImage(1);
    for (let i = 0; i <= 12; i++, at += 5000) await askImage(2);
    const lines = logged.filter(({ msg }) => msg === 'waiting for an image slot');
    expect(lines).toEqual([0, 1].map(() => expect.objectContaining({ node: 'n2', ip: ipOf(2), boot: bootId, place: 1 }) as unknown));
    expect(await rootOf(bootId)).toMatchObject({ state: 'running', count: 2, lastAt: NOW + TELL_EVERY_MS, detail: { message: 'waiting for an image slot, place 1' } });
    await booter.release(ticket!, 'whole');
    await askImage(2);
    expect(logged.at(-1)).toMatchObject({ msg: 'got an image slot', node: 'n2', seconds: 65 });
    expect(await rootOf(bootId)).toMatchObject({ state: 'running', detail: { message: 'got an image slot after 65 s' } });
  });

  it('that has its root already, or asks for another file, leaves its boot as it is', async () => {
    const bootId = await bootUp(2);
    await askImage(1);
    await askImage(2, { blob: digestOfBytes('a big file') });
    expect(await rootOf(bootId)).toBeUndefined();
    await booter.seen(bootId, 'root');
    at += TELL_EVERY_MS;
    await askImage(2);
    expect(await rootOf(bootId)).toMatchObject({ state: 'ok', count: 1 });
    expect(logged.filter(({ msg }) => msg === 'waiting for an image slot')).toHaveLength(2);
  });
});
