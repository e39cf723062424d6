// The database on a full disk: what still succeeds, that a failing write is never acknowledged, and that all works again by itself.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ip4FromNumber } from '../../src/addr.ts';
import { createBootStore } from '../../src/store/boots.ts';
import { openDatabase, type Database } from '../../src/store/db.ts';
import { createLeaseStore, type LeaseStore } from '../../src/store/leases.ts';
import { RESERVE_BYTES } from '../../src/store/reserve.ts';
import { fillDisk } from '../full-disk.ts';

const NOW = 1_750_000_000_000;
let dir: string;
let filler: string;
let database: Database;
let leases: LeaseStore;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-full-'));
  filler = join(dir, 'filler');
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=80m', 'rackseed-test', dir]);
  open();
});
afterEach(async () => {
  await database.close();
  execFileSync('umount', [dir]);
  rmSync(dir, { recursive: true });
});

function open(reserveBytes = RESERVE_BYTES): void {
  database = openDatabase(join(dir, 'rackseed.db'), { reserveBytes });
  leases = createLeaseStore(database);
}

/** Takes leases until one is refused for want of room, `together` in a transaction; answers those that were acknowledged. */
async function takeUntilFull(together: number, most: number, base = 0x0a010000): Promise<string[]> {
  const acknowledged: string[] = [];
  for (let n = 0; n < most; n += together) {
    const answers = await Promise.allSettled(
      Array.from({ length: together }, (_, i) => {
        const hex = (n + i).toString(16).padStart(6, '0');
        return leases.take({ ip: ip4FromNumber(base + n + i), mac: `52:54:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4)}`, subnet: '10.0.0.0/8', expiresAt: NOW + 1, hostname: `host-${n + i}` }, NOW);
      }),
    );
    for (const answer of answers) {
      if (answer.status === 'fulfilled') acknowledged.push(answer.value!.ip);
      else expect(answer.reason).toMatchObject({ code: 'STORE_UNUSABLE', hint: 'the disk is full: make room' });
    }
    if (answers.some((answer) => answer.status === 'rejected')) break;
  }
  return acknowledged;
}

const freshIsTight = async (): Promise<boolean> => {
  // Its answer may be a second old.
  await new Promise((resolve) => setTimeout(resolve, 1050));
  return database.isTight();
};

describe('a disk that is full', () => {
  it('takes thousands of leases and whole boots out of the reserve', async () => {
    expect(database.spare().freeBytes).toBeGreaterThanOrEqual(RESERVE_BYTES);
    expect(await freshIsTight()).toBe(false);
    fillDisk(filler);
    expect(database.spare().diskFreeBytes).toBeLessThan(4096);
    expect(await freshIsTight()).toBe(true);
    const taken = await takeUntilFull(32, 10_000);
    expect(taken.length).toBeGreaterThanOrEqual(10_000);
    const boots = createBootStore(database);
    for (let n = 0; n < 300; n++) {
      const boot = await boots.start({ id: `b${n}`, node: `n${n}`, mac: '52:54:00:00:00:01', profile: 'p', generation: `sha256:${'1'.repeat(64)}`, startedAt: NOW });
      for (const name of ['discover', 'offer', 'lease', 'loader', 'script', 'kernel'] as const) await boots.see(boot.id, { name, state: 'ok', at: NOW });
      await boots.end(boot.id, 'ready', NOW);
    }
  });

  it.each([1, 128])('acknowledges nothing that is not there, %i at a time, and goes on by itself when there is room again', async (together) => {
    fillDisk(filler);
    const acknowledged = await takeUntilFull(together, 200_000);
    expect(acknowledged.length).toBeGreaterThan(10_000);
    expect(acknowledged.length).toBeLessThan(200_000);
    expect(database.isTight()).toBe(true);
    // A renewal changes a page in its place, but needs the WAL too; reading needs nothing.
    expect((await leases.list()).map((lease) => lease.ip)).toEqual(acknowledged);

    rmSync(filler);
    expect(await freshIsTight()).toBe(false);
    expect((await takeUntilFull(together, 1000, 0x0b000000)).length).toBeGreaterThanOrEqual(1000);
    // The reserve is filled up again, for the next time.
    expect(database.spare().freeBytes).toBeGreaterThan(RESERVE_BYTES / 2);
    const other = new BetterSqlite3(database.file, { readonly: true });
    expect(other.pragma('integrity_check', { simple: true })).toBe('ok');
    expect(other.prepare('SELECT count(*) FROM leases').pluck().get()).toBeGreaterThanOrEqual(acknowledged.length);
    other.close();
  });

  it('what was acknowledged survives the end of the daemon and a start on the full disk', async () => {
    fillDisk(filler);
    const acknowledged = await takeUntilFull(32, 3000);
    await database.close();
    // Closing deleted the WAL, and something else took its room.
    fillDisk(filler);
    open();
    expect((await leases.list()).map((lease) => lease.ip)).toEqual(acknowledged);
    expect(await freshIsTight()).toBe(true);
    expect((await takeUntilFull(32, 1024, 0x0c000000)).length).toBe(1024);
    rmSync(filler);
    expect(await freshIsTight()).toBe(false);
    expect((await takeUntilFull(32, 1000, 0x0b000000)).length).toBeGreaterThanOrEqual(1000);
  });

  it('without the reserve hardly anything would be taken: the test can tell', async () => {
    await database.close();
    open(0);
    fillDisk(filler);
    expect((await takeUntilFull(1, 100_000)).length).toBeLessThan(10_000);
  });
});
