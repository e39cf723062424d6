// Replays what journal.c wrote down: the database and its WAL as the disk has them for sure at each moment, held against the ACKs that had left by then.
import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import BetterSqlite3 from 'better-sqlite3';
import type { Ip4 } from '../../src/addr.ts';
import { messageOf, OPT, uint32Of } from '../../src/dhcp/options.ts';
import { decode, macOf } from '../../src/dhcp/packet.ts';
import { rowsOf } from './site.ts';
import { brokenPromises, type Claim } from './traffic.ts';

type File = 'd' | 'w';
type Change = { readonly at: number; readonly bytes: Buffer } | { readonly cutTo: number };
type Step =
  | { readonly kind: 'change'; readonly file: File; readonly change: Change }
  | { readonly kind: 'synced'; readonly file: File }
  | { readonly kind: 'leaves'; readonly datagram: Buffer };

export interface Replayed {
  /** ACKs that left. */
  readonly acks: number;
  /** Copies that were opened: one for each sync behind which an ACK left. */
  readonly copies: number;
  /** Syncs of the database itself: checkpoints. */
  readonly checkpoints: number;
  /** Copies with a random part of what was written and not synced. */
  readonly torn: number;
  /** What a copy lacks of the ACKs that had left before the next sync, one line each. */
  readonly broken: readonly string[];
}

/** The library to preload, compiled into this directory. */
export function compileJournal(dir: string): string {
  const to = join(dir, 'journal.so');
  execFileSync('cc', ['-O1', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', to, new URL('journal.c', import.meta.url).pathname]);
  return to;
}

function* stepsOf(file: string): Generator<Step> {
  const journal = readFileSync(file);
  // A record that was cut off by the kill is the last one.
  for (let at = 0; at + 14 <= journal.length; ) {
    const kind = String.fromCharCode(journal[at]!);
    const which = String.fromCharCode(journal[at + 1]!) as File;
    const offset = Number(journal.readBigUInt64LE(at + 2));
    const bytes = journal.subarray(at + 14, (at += 14 + journal.readUInt32LE(at + 10)));
    if (at > journal.length) return;
    if (kind === 'A') yield { kind: 'leaves', datagram: bytes };
    else if (kind === 'S') yield { kind: 'synced', file: which };
    else yield { kind: 'change', file: which, change: kind === 'W' ? { at: offset, bytes } : { cutTo: offset } };
  }
}

/**
 * `first`: the database as it was before the daemon started, without a WAL. `sentAt`: when each REQUEST was sent. `random` picks
 * the moments of `torn` more copies, in which any of the writes that no sync had reached yet are there too, or not.
 */
export function replay(journal: string, first: string, dir: string, sentAt: ReadonlyMap<number, number>, random: () => number, torn: number): Replayed {
  mkdirSync(dir);
  const image = { d: join(dir, 'rackseed.db'), w: join(dir, 'rackseed.db-wal') };
  copyFileSync(first, image.d);
  const pending: Record<File, Change[]> = { d: [], w: [] };
  const claims = new Map<Ip4, Claim>();
  const broken: string[] = [];
  const count = { acks: 0, copies: 0, checkpoints: 0, torn: 0 };
  const steps = [...stepsOf(journal)];
  /** Of changes that follow an ACK: before it there is nothing to lose. */
  const moments = new Set<number>();
  const firstAck = steps.findIndex(({ kind }) => kind === 'leaves');
  const changes = steps.flatMap(({ kind }, n) => (kind === 'change' && n > firstAck && firstAck >= 0 ? [n] : []));
  for (let n = 0; n < torn && changes.length > 0; n++) moments.add(changes[Math.floor(random() * changes.length)]!);

  let checked = true;
  const check = (): void => {
    if (checked) return;
    checked = true;
    count.copies++;
    // Nothing is written to the copy, so that it goes on as it is: SQLite replays the WAL into shared memory.
    const sqlite = new BetterSqlite3(image.d, { readonly: true });
    broken.push(...brokenPromises(claims.values(), rowsOf(sqlite)).map((line) => `copy ${count.copies}: ${line}`));
    sqlite.close();
    rmSync(`${image.d}-shm`, { force: true });
  };
  for (const [n, step] of steps.entries()) {
    if (step.kind === 'leaves') {
      const packet = decode(step.datagram);
      if (messageOf(packet.options) !== 'ack') continue;
      count.acks++;
      const { yiaddr: ip } = packet;
      claims.set(ip, { ip, mac: macOf(packet)!, expiresAt: sentAt.get(packet.xid)! + uint32Of(packet.options, OPT.leaseTime)! * 1000 });
      checked = false;
    } else if (step.kind === 'change') {
      pending[step.file].push(step.change);
      if (moments.has(n)) tear();
    } else {
      // All that left before this sync must be in the copy of the one before.
      check();
      apply(image[step.file], pending[step.file].splice(0));
      if (step.file === 'd') count.checkpoints++;
    }
  }
  check();
  return { ...count, broken };

  function tear(): void {
    count.torn++;
    const copy = { d: join(dir, 'torn.db'), w: join(dir, 'torn.db-wal') };
    for (const file of ['d', 'w'] as const) {
      if (existsSync(image[file])) copyFileSync(image[file], copy[file]);
      apply(copy[file], pending[file].filter(() => random() < 0.5));
    }
    const sqlite = new BetterSqlite3(copy.d);
    if (sqlite.pragma('integrity_check', { simple: true }) !== 'ok') broken.push(`torn copy ${count.torn} is damaged`);
    broken.push(...brokenPromises(claims.values(), rowsOf(sqlite)).map((line) => `torn copy ${count.torn}: ${line}`));
    sqlite.close();
    for (const ending of ['', '-wal', '-shm']) rmSync(copy.d + ending, { force: true });
  }
}

function apply(file: string, changes: readonly Change[]): void {
  if (changes.length === 0) return;
  const fd = openSync(file, existsSync(file) ? 'r+' : 'w+');
  for (const change of changes) {
    if ('cutTo' in change) ftruncateSync(fd, change.cutTo);
    else writeSync(fd, change.bytes, 0, change.bytes.length, change.at);
  }
  closeSync(fd);
}
