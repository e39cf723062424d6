// What is known of the files of blobs: which of them were hashed and what came of it. One book in each thread, and what is kept over a restart.
import type { BigIntStats } from 'node:fs';
import type { Digest } from '../digest.ts';
import type { Database } from './db.ts';

/** What the hash of a file said. It stays true of that file for as long as its identity does, but for rot, which the scrub finds. */
export interface Verdict {
  readonly digest: Digest;
  /** As `identityOf` makes it. */
  readonly identity: string;
  readonly good: boolean;
}

export interface Verdicts {
  of(digest: Digest): Verdict | undefined;
  all(): readonly Verdict[];
  /** What was found out here; the listeners hear of it when it is news. Of each digest the newest verdict alone counts. */
  note(verdict: Verdict): void;
  /** What was found out elsewhere: nobody is told, or two threads would tell one another for ever. */
  learn(verdict: Verdict): void;
  onNote(listener: (verdict: Verdict) => void): void;
}

export function createVerdicts(known: Iterable<Verdict> = []): Verdicts {
  const byDigest = new Map<Digest, Verdict>();
  const listeners: ((verdict: Verdict) => void)[] = [];
  const learn = (verdict: Verdict): void => void byDigest.set(verdict.digest, verdict);
  for (const verdict of known) learn(verdict);
  return {
    of: (digest) => byDigest.get(digest),
    all: () => [...byDigest.values()],
    learn,
    note(verdict) {
      const before = byDigest.get(verdict.digest);
      learn(verdict);
      if (before?.identity !== verdict.identity || before.good !== verdict.good) for (const tell of listeners) tell(verdict);
    },
    onNote: (listener) => void listeners.push(listener),
  };
}

/** What changes whenever a file's content does. */
export function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}

/** Good verdicts only: a wrong file is moved away, and one that cannot be is looked at anew by the next daemon. */
export interface VerdictStore {
  all(): Promise<readonly Verdict[]>;
  /** `at`: milliseconds since 1970. While the disk is nearly full nothing is kept: it costs one hash after a restart. */
  keep(verdict: Verdict, at: number): Promise<void>;
  drop(digest: Digest): Promise<void>;
}

export function createVerdictStore(db: Database): VerdictStore {
  const select = db.prepare<[], { digest: Digest; identity: string }>('SELECT digest, identity FROM blob_verdicts');
  const replace = db.prepare<[string, string, number]>('INSERT INTO blob_verdicts (digest, identity, verified_at) VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET identity = excluded.identity, verified_at = excluded.verified_at');
  const remove = db.prepare<[string]>('DELETE FROM blob_verdicts WHERE digest = ?');
  return {
    all: async () => db.read(() => select.all()).map((row) => ({ ...row, good: true })),
    async keep({ digest, identity }, at) {
      if (!db.isTight()) await db.write(() => void replace.run(digest, identity, at));
    },
    drop: (digest) => db.write(() => void remove.run(digest)),
  };
}
